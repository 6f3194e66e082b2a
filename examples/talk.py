"""Says something to a relay and saves what it answers, with the openai client.

pip install 'openai[realtime]'
python examples/talk.py --key rk-… --say "What is a relay?" --out answer.wav
"""

import argparse
import base64
import wave

from openai import OpenAI


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="ws://127.0.0.1:8000/v1")
    parser.add_argument("--key", required=True)
    parser.add_argument("--model", default="gpt-realtime")
    parser.add_argument("--say", default="Hello.")
    parser.add_argument("--out", default="answer.wav")
    options = parser.parse_args()

    audio = bytearray()
    client = OpenAI(api_key=options.key, websocket_base_url=options.url)
    with client.realtime.connect(model=options.model) as connection:
        content = [{"type": "input_text", "text": options.say}]
        connection.conversation.item.create(
            item={"type": "message", "role": "user", "content": content}
        )
        connection.response.create(response={"output_modalities": ["audio"]})
        for event in connection:
            if event.type == "response.output_audio.delta":
                audio += base64.b64decode(event.delta)
            elif event.type == "response.output_audio_transcript.done":
                print(event.transcript)
            elif event.type == "response.done":
                print("tokens:", event.response.usage.total_tokens)
                break
    with wave.open(options.out, "wb") as file:
        file.setparams((1, 2, 24_000, 0, "NONE", ""))
        file.writeframes(bytes(audio))
    print(f"{len(audio) / 48_000:.1f} s of audio in {options.out}")


if __name__ == "__main__":
    main()
