import gc
import hashlib
import types
from collections.abc import Iterator

import pytest

from relay_app.errors import ClientFault
from relay_app.settings import Key
from relay_app.settings_file import settings_from_toml
from relay_app.web.auth import Authenticator, Principal, credential_of, is_query_credential

SECRET = "rk-planted-0123456789"


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


KEYS = [
    Key("team-a", digest(SECRET), ("gpt-*",)),
    Key("team-b", digest("rk-other-key").upper()),
]


def carried(*subprotocols: str, query: tuple[str, ...] = (), **headers: str):
    environ = {f"HTTP_{name.upper()}": value for name, value in headers.items()}
    return credential_of(environ, subprotocols, query)


def principal(*subprotocols: str, mode: str = "keys", **headers: str) -> Principal:
    return Authenticator(mode, KEYS if mode == "keys" else []).principal(
        carried(*subprotocols, **headers)
    )


def refusal(*subprotocols: str, mode: str = "keys", **options) -> ClientFault:
    with pytest.raises(ClientFault) as caught:
        Authenticator(mode, KEYS).principal(carried(*subprotocols, **options))
    fault = caught.value
    assert fault.status == 401
    assert fault.headers == {"WWW-Authenticate": 'Bearer realm="relay_app"'}
    assert SECRET not in str(fault.body())
    return fault


@pytest.mark.parametrize(
    "request_",
    [
        lambda: principal(authorization=f"Bearer {SECRET}"),
        lambda: principal(authorization=f"bearer   {SECRET} "),
        lambda: principal(authorization=f"BEARER {SECRET}"),
        lambda: principal(api_key=SECRET),
        lambda: principal(api_key=f" {SECRET} "),
        lambda: principal("realtime", f"openai-insecure-api-key.{SECRET}"),
        lambda: principal(f"openai-insecure-api-key.{SECRET}", "openai-beta.realtime-v1"),
        # The same key in two places is one key.
        lambda: principal(authorization=f"Bearer {SECRET}", api_key=SECRET),
        lambda: principal(f"openai-insecure-api-key.{SECRET}", api_key=SECRET),
    ],
)
def test_a_key_is_found_wherever_clients_put_it(request_):
    assert request_() == Principal("team-a", ("gpt-*",), key=KEYS[0])


def test_a_digest_in_capitals_is_the_same_digest():
    assert principal(api_key="rk-other-key").name == "team-b"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_api_key"),
        ({"api_key": ""}, "missing_api_key"),
        ({"authorization": " "}, "missing_api_key"),
        ({"authorization": "Bearer"}, "invalid_authorization"),
        ({"authorization": "Bearer  "}, "invalid_authorization"),
        ({"authorization": SECRET}, "invalid_authorization"),
        ({"authorization": f"Basic {SECRET}"}, "invalid_authorization"),
        ({"authorization": f"Bearer\t{SECRET}"}, "invalid_authorization"),
        ({"authorization": f"Bearer {SECRET},Bearer {SECRET}"}, "invalid_api_key"),
        ({"authorization": f"Bearer {SECRET}x"}, "invalid_api_key"),
        ({"authorization": "Bearer sch\xf6n"}, "invalid_api_key"),
        ({"authorization": "Bearer \ud800"}, "invalid_api_key"),
        ({"authorization": f"Bearer {digest(SECRET)}"}, "invalid_api_key"),
        ({"api_key": "x" * 100_000}, "invalid_api_key"),
        ({"authorization": f"Bearer {SECRET}", "api_key": "other"}, "ambiguous_api_key"),
    ],
)
def test_what_is_no_key_of_ours_is_refused(headers, code):
    assert refusal(**headers).code == code


def test_a_subprotocol_without_a_key_is_no_key():
    assert refusal("realtime").code == "missing_api_key"
    assert refusal("realtime", "openai-insecure-api-key.").code == "missing_api_key"
    assert refusal("OPENAI-INSECURE-API-KEY." + SECRET).code == "missing_api_key"


def test_two_keys_that_differ_are_refused_wherever_they_are():
    offered = f"openai-insecure-api-key.{SECRET}"
    assert refusal(offered, "openai-insecure-api-key.x").code == "ambiguous_api_key"
    assert refusal(offered, authorization="Bearer x").code == "ambiguous_api_key"
    assert refusal("openai-insecure-api-key.", api_key=SECRET).code == "ambiguous_api_key"


@pytest.mark.parametrize(
    "name",
    ["api-key", "api_key", "apikey", "key", "token", "access_token", "authorization",
     "Authorization", "API-KEY", "Token", "client_secret", "ephemeral_key", "bearer",
     "subscription-key"],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["keys", "passthrough", "open"])
def test_a_key_in_the_query_is_refused_even_beside_a_good_one(name, mode):
    assert is_query_credential(name)
    fault = refusal(mode=mode, authorization=f"Bearer {SECRET}", query=("model", name))
    assert fault.code == "credential_in_query"
    assert f"({name}=)" in fault.message


def test_other_parameters_are_no_credentials():
    assert carried(query=("model", "intent", "tokens", "keyboard", "")) is None


def test_in_passthrough_mode_the_key_goes_on_as_it_came():
    for headers, header in (
        ({"authorization": f"Bearer {SECRET}"}, "authorization"),
        ({"api_key": SECRET}, "api-key"),
    ):
        found = principal(mode="passthrough", **headers)
        assert (found.secret, found.header, found.models) == (SECRET, header, ("*",))
        assert found.name == f"sha256:{digest(SECRET)[:16]}"
    found = principal(f"openai-insecure-api-key.{SECRET}", mode="passthrough")
    assert (found.secret, found.header) == (SECRET, "")


@pytest.mark.parametrize("secret", ["with space", "sch\xf6n", "bell\x07", "x" * 5000, "\ud800"])
def test_in_passthrough_mode_what_no_header_can_carry_is_refused(secret):
    assert refusal(mode="passthrough", authorization=f"Bearer {secret}").code == "invalid_api_key"


def test_in_passthrough_mode_a_key_is_needed():
    assert refusal(mode="passthrough").code == "missing_api_key"


def test_in_open_mode_everybody_is_the_same_nobody():
    for headers in ({}, {"api_key": "anything"}):
        assert principal(mode="open", **headers) == Principal("anonymous", ("*",))


def test_no_secret_is_in_a_repr():
    found = principal(mode="passthrough", api_key=SECRET)
    assert SECRET not in repr(found)
    assert SECRET not in repr(carried(api_key=SECRET))
    assert digest(SECRET) not in repr(KEYS)


@pytest.mark.parametrize("peer", ["", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_an_open_relay_serves_its_own_machine(peer):
    assert Authenticator("open", ()).principal(None, peer).name == "anonymous"


@pytest.mark.parametrize("peer", ["10.0.0.7", "2001:db8::1", "not an address"])
def test_an_open_relay_serves_nobody_else(peer):
    with pytest.raises(ClientFault) as refused:
        Authenticator("open", ()).principal(None, peer)
    assert refused.value.status == 403


# -- keys of the store --------------------------------------------------------------------------


class Stored:
    """Keys that a store has, by what was asked of it."""

    def __init__(self, *keys: Key) -> None:
        self._keys = {key.key_sha256: key for key in keys}
        self.asked: list[str] = []

    def find(self, asked: str) -> Key | None:
        self.asked.append(asked)
        return self._keys.get(asked)

    def has(self, name: str) -> bool:
        return any(key.name == name for key in self._keys.values())


STORED = Key("team-c", digest("rk-stored-key"), ("gpt-*",), max_sessions=3)


def test_a_key_of_the_store_is_as_good_as_one_of_the_settings():
    authenticator = Authenticator("keys", KEYS, Stored(STORED))
    found = authenticator.principal(carried(api_key="rk-stored-key"))
    assert found == Principal("team-c", ("gpt-*",), key=STORED)
    with pytest.raises(ClientFault):
        authenticator.principal(carried(api_key="rk-stored-kez"))


def test_the_store_is_not_asked_about_keys_of_the_settings():
    stored = Stored(Key("team-a", digest(SECRET)))
    authenticator = Authenticator("keys", KEYS, stored)
    assert authenticator.principal(carried(api_key=SECRET)).models == ("gpt-*",)
    assert stored.asked == []


def test_a_name_of_the_settings_cannot_be_taken_by_a_key_of_the_store():
    authenticator = Authenticator("keys", KEYS, Stored(Key("team-a", digest("rk-stored-key"))))
    with pytest.raises(ClientFault, match="Incorrect API key"):
        authenticator.principal(carried(api_key="rk-stored-key"))


def test_who_was_told_a_name_keeps_it_while_a_key_has_it():
    authenticator = Authenticator("keys", KEYS, Stored(STORED))
    assert [authenticator.knows(name) for name in ("team-a", "team-c", "team-d")] == [1, 1, 0]
    for mode in ("open", "passthrough"):
        assert Authenticator(mode, (), Stored()).knows("anybody")


def test_keys_are_held_and_looked_up_as_digests_alone():
    """So that how long a comparison takes tells of a digest, which nobody can choose."""
    settings = settings_from_toml(
        f'[[keys]]\nname="a"\nkey="{SECRET}"\n[[upstreams]]\nname="u"\nbase_url="wss://h"\n'
        'api_keys=["k"]\n'
    )
    authenticator = Authenticator("keys", settings.keys)
    assert authenticator.principal(carried(api_key=SECRET)).name == "a"
    texts = set(texts_held_by(settings)) | set(texts_held_by(authenticator))
    assert digest(SECRET) in texts
    assert not [text for text in texts if SECRET in text]


def texts_held_by(root: object) -> Iterator[str]:
    """Every text that can be reached from ``root``, but for code and what it names."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        found = waiting.pop()
        if id(found) in seen or isinstance(found, type | types.FunctionType | types.ModuleType):
            continue
        seen.add(id(found))
        if isinstance(found, str):
            yield found
        waiting += gc.get_referents(found)
