"""What a session used: from the provider's events to one record a billable unit.

The rule: pure code. It takes messages and a clock and returns values; it opens nothing, waits
for nothing and raises nothing, because a fault of metering must never stop audio.

    message        what a meter may ask of a WebSocket message
    names          the event types of every dialect: known, audio, counted
    events         a payload's two ends -> its type, without parsing
    reading        message -> type and, if counted, event
    untrusted      JSON values from outside, read without believing them
    split          token counts -> tokens by modality, cached ones among them
    reported       a provider's usage object -> Usage and where it came from
    facts          what the server said about its session: models, modalities
    units          which units run and which have ended, in bounded memory
    meter          events -> UsageRecord, keyed by response or item id
    recorder       a unit's figures -> UsageRecord
    usage          Usage and UsageRecord, the values that come out
    price          one model's rates, and what usage costs by them
    prices         a record's model -> the price it is billed by
    price_file     TOML text -> prices, and all that is wrong with it

and beside it, what the units must have used if nobody says so:

    vocabulary     the tokenizer's data, loaded once
    tokens         text -> tokens, in bounded work
    audio          formats and rates: base64 -> bytes -> milliseconds -> tokens
    fields         the length of one string field of a message that is not parsed
    items          items, instructions, tools -> tokens
    claims         what only the client said
    input_audio    how long the user spoke
    output         what a running response has put out
    context        what the next response will have to read
    transcription  what a transcription costs by its model
    estimate       all of these, fed by the messages of one session
    completed      a report and an estimate -> the figures of a record
    drift          how far the two are apart
"""

from relay_app.meter.message import Message
from relay_app.meter.meter import Meter
from relay_app.meter.usage import Usage, UsageRecord, record_id

__all__ = ["Message", "Meter", "Usage", "UsageRecord", "record_id"]
