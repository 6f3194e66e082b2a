from dataclasses import fields

from relay_app.meter.usage import Usage
from relay_app.observe.tally import Tally


def test_tallies_add_up_field_by_field():
    numbers = [f.name for f in fields(Tally) if f.name not in ("usage", "drift")]
    one = Tally(**{name: i for i, name in enumerate(numbers)}, usage=Usage(input_text_tokens=1))
    other = Tally(**dict.fromkeys(numbers, 100), usage=Usage(output_audio_tokens=2))
    total = one + other
    assert [getattr(total, name) for name in numbers] == [100 + i for i in range(len(numbers))]
    assert total.usage == Usage(input_text_tokens=1, output_audio_tokens=2)


def test_nothing_is_where_adding_begins():
    one = Tally(messages_sent=1)
    assert sum([one, one], Tally()) == Tally(messages_sent=2)
    assert one + Tally() == one
