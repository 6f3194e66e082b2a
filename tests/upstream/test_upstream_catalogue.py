import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay_app.errors import ClientFault
from relay_app.settings import Upstream
from relay_app.upstream.catalogue import MAX_REMEMBERED, Catalogue, matches


def up(name: str, priority: int = 1, transcription: bool = True, **models: str) -> Upstream:
    mapped = {k.replace("_", "-").replace("ANY", "*"): v for k, v in models.items()}
    return Upstream(
        name,
        "wss://h",
        models=mapped or {"*": "*"},
        priority=priority,
        transcription=transcription,
    )


def routes(model: str, *upstreams: Upstream, allowed: tuple[str, ...] = ("*",)):
    found = Catalogue(upstreams).routes(model, allowed)
    return [(route.upstream.name, route.model) for route in found]


@pytest.mark.parametrize(
    ("name", "pattern", "wild"),
    [
        ("a", "a", ""), ("a", "b", None), ("a", "*", "a"), ("gpt-x", "gpt-*", "x"),
        ("gpt-", "gpt-*", ""), ("gpt", "gpt-*", None), ("x-mini", "*-mini", "x"),
        ("gpt-x-mini", "gpt-*-mini", "x"), ("gpt-mini", "gpt-*-mini", None), ("aba", "ab*ba", None),
        ("A", "a", None), ("a.c", "a*c", "."), ("[x]", "[*", "x]"), ("a*b", "a*b", "*"),
    ],
)  # fmt: skip
def test_one_star_stands_for_anything(name, pattern, wild):
    assert matches(name, pattern) == wild


@given(st.text(), st.text(), st.text())
def test_what_the_star_stands_for_completes_the_pattern(before, wild, after):
    pattern = before.replace("*", "") + "*" + after
    found = matches(pattern.replace("*", wild, 1), pattern)
    assert found is not None
    assert pattern.replace("*", found, 1) == pattern.replace("*", wild, 1)


def test_an_exact_name_beats_a_pattern_and_a_longer_one_a_shorter():
    upstream = up("u", ANY="any", gpt_ANY="gpt", gpt_realtime_ANY="realtime", gpt_realtime_x="x")
    assert routes("gpt-realtime-x", upstream) == [("u", "x")]
    assert routes("gpt-realtime-y", upstream) == [("u", "realtime")]
    assert routes("gpt-4", upstream) == [("u", "gpt")]
    assert routes("other", upstream) == [("u", "any")]


def test_the_order_of_the_table_does_not_decide():
    one = Upstream("u", "wss://h", models={"gpt-*": "long", "*": "short"})
    other = Upstream("u", "wss://h", models={"*": "short", "gpt-*": "long"})
    assert routes("gpt-x", one) == routes("gpt-x", other) == [("u", "long")]


def test_a_star_on_the_right_is_what_the_star_on_the_left_stood_for():
    assert routes("eu/gpt-x", Upstream("u", "wss://h", models={"eu/*": "*"})) == [("u", "gpt-x")]
    assert routes("a*b", up("u")) == [("u", "a*b")]


def test_upstreams_come_by_priority_and_then_as_in_the_file():
    upstreams = up("c", 2), up("a", 1), up("b", 1), up("first", 0)
    assert [name for name, _ in routes("m", *upstreams)] == ["first", "a", "b", "c"]


def test_an_upstream_without_the_model_is_left_out():
    assert routes("gpt-x", up("a", other="o"), up("b")) == [("b", "gpt-x")]


def test_a_key_reaches_only_its_models():
    upstream = up("u")
    assert routes("gpt-realtime-mini", upstream, allowed=("x", "gpt-realtime*"))
    with pytest.raises(ClientFault):
        routes("gpt-4", upstream, allowed=("gpt-realtime*",))
    with pytest.raises(ClientFault):
        routes("gpt-4", upstream, allowed=())


def test_an_alias_is_allowed_by_the_name_that_is_asked_for():
    upstream = up("u", voice="gpt-realtime")
    assert routes("voice", upstream, allowed=("voice",)) == [("u", "gpt-realtime")]
    with pytest.raises(ClientFault):
        routes("voice", upstream, allowed=("gpt-realtime",))


@pytest.mark.parametrize(
    ("allowed", "named"),
    [
        (("*",), "gpt-*, voice."),
        (("gpt-realtime*",), "gpt-realtime*."),
        (("voice", "secret-model"), "voice."),
        (("other",), "none."),
    ],
)
def test_the_404_names_what_both_sides_allow(allowed, named):
    with pytest.raises(ClientFault) as caught:
        routes("x" * 300, up("u", gpt_ANY="*", voice="v"), allowed=allowed)
    assert caught.value.status == 404
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    assert caught.value.message.endswith(f"Models allowed to this key: {named}")
    assert "x" * 101 not in caught.value.message


def test_transcription_goes_only_where_it_is_taken():
    catalogue = Catalogue([up("b", 2), up("no", 0, transcription=False), up("a", 1)])
    found = [(route.upstream.name, route.model) for route in catalogue.transcription_routes()]
    assert found == [("a", ""), ("b", "")]
    with pytest.raises(ClientFault, match="intent=transcription") as caught:
        Catalogue([up("no", transcription=False)]).transcription_routes()
    assert (caught.value.status, caught.value.param) == (404, "intent")


def test_a_model_is_found_again_whatever_was_done_with_what_was_found():
    catalogue = Catalogue([up("a"), up("b", gpt_ANY="*")])
    first = catalogue.routes("gpt-x", ["*"])
    found = list(first)
    first.clear()
    assert catalogue.routes("gpt-x", ["*"]) == found
    assert [route.upstream.name for route in catalogue.routes("x", ["*"])] == ["a"]
    with pytest.raises(ClientFault):
        catalogue.routes("gpt-x", ["other"])


def test_what_is_remembered_of_models_is_bounded():
    catalogue = Catalogue([up("a")])
    for number in range(MAX_REMEMBERED + 1):
        catalogue.routes(f"m{number}", ["*"])
    assert catalogue._found.cache_info().currsize == MAX_REMEMBERED
