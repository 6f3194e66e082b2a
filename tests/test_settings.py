import hashlib
import json
import re
import tomllib
from dataclasses import fields, is_dataclass
from decimal import Decimal
from pathlib import Path

import pytest
from fuzz import settings_file
from hypothesis import given
from hypothesis import strategies as st

from relay_app.ledger.stores import open_store
from relay_app.settings import Audit, Auth, Key, Server, Settings, SettingsError, Store, Upstream
from relay_app.settings_file import (
    settings_from_environment,
    settings_from_file,
    settings_from_toml,
)

EXAMPLE = Path(__file__).parent.parent / "relay.example.toml"
SECRET = "sk-planted-secret-0123456789"

KEYS = '[[keys]]\nname = "a"\nkey = "rk-00000000"\n'
UPSTREAMS = '[[upstreams]]\nname = "u"\nbase_url = "wss://host/v1"\napi_keys = ["k"]\n'


def read(text: str, environ: dict[str, str] | None = None, **options) -> Settings:
    return settings_from_toml(text, source="relay.toml", environ=environ or {}, **options)


def complete(text: str = "", *, keys: str = KEYS, upstreams: str = UPSTREAMS) -> str:
    """``text`` with what every file needs behind it."""
    return text + "\n" + keys + upstreams


def complaint(text: str, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        read(text, environ)
    message = str(caught.value)
    assert message.startswith("relay.toml: ")
    assert len(message.splitlines()) == 1
    assert SECRET not in message
    assert SECRET not in repr(caught.value)
    assert caught.value.__cause__ is None
    return message.removeprefix("relay.toml: ")


def key(lines: str) -> str:
    return complete(keys=f'[[keys]]\nname = "a"\n{lines}\n')


def up(lines: str) -> str:
    return complete(upstreams=UPSTREAMS + lines + "\n")


def test_the_least_that_is_needed_gets_the_documented_defaults():
    settings = read(complete())
    assert settings.server == Server()
    assert settings.auth.mode == "keys"
    assert settings.store.durability == "before-forward"
    assert settings.upstreams[0].models == {"*": "*"}
    assert settings.keys[0].models == ("*",)


def test_origins_are_read_as_browsers_send_them():
    origins = (
        '["HTTPS://App.Example.com", "http://*.example.com:81", "http://[::1]:3", "null", "*"]'
    )
    assert read(complete(f"[auth]\nallowed_origins = {origins}")).auth.allowed_origins == (
        "https://app.example.com", "http://*.example.com:81", "http://[::1]:3", "null", "*"
    )  # fmt: skip
    assert read(complete()).auth.allowed_origins is None
    assert read(complete("[auth]\nallowed_origins = []")).auth.allowed_origins == ()


# -- each rule stops the start in one line that names key, value and what is accepted -----------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("serverr = 1", "serverr is not a setting: expected one of server, auth, keys"),
        ("[servers]\nidle_seconds = 5", "servers is not a setting"),
        ("server = 3", "server = 3: expected a table, [server]"),
        ("[server]\nidle = 3", "server.idle is not a setting: expected one of max_message"),
        ('[server]\n"a\\nb" = 3', r"server.a\nb is not a setting"),
        ("[server]\nidle_seconds = 0", "server.idle_seconds = 0: expected 1 to 604800 seconds"),
        ("[server]\nidle_seconds = true", "server.idle_seconds = True: expected a number"),
        ('[server]\nidle_seconds = "5"', "server.idle_seconds = '5': expected a number"),
        ("[server]\nidle_seconds = nan", "server.idle_seconds = nan: expected 1 to"),
        ("[server]\nidle_seconds = inf", "server.idle_seconds = inf: expected 1 to"),
        ("[server]\nmax_sessions = true", "server.max_sessions = True: expected a whole number"),
        ("[server]\nmax_sessions = 10.0", "server.max_sessions = 10.0: expected a whole number"),
        ("[server]\nmax_sessions = 0", "server.max_sessions = 0: expected a whole number"),
        (
            "[server]\nmax_message_bytes = 2000000\nmax_buffered_bytes = 1000000",
            "server.max_message_bytes = 2000000: expected at most server.max_buffered_bytes",
        ),
        ("[auth]\nallowed_origins = 'x'", "auth.allowed_origins = 'x': expected a list of origins"),
        ("[auth]\nallowed_origins = ['app.example.com']", "expected a list of origins, like"),
        ("[auth]\nallowed_origins = ['https://a.example/']", "expected a list of origins, like"),
        ("[auth]\nallowed_origins = ['https://*']", "expected a list of origins, like"),
        ("[auth]\nallowed_origins = ['https://a.*.example']", "expected a list of origins"),
        ("[server]\nforwarded_allow_ips = '*'", "forwarded_allow_ips = '*': expected a list of"),
        ("[server]\nforwarded_allow_ips = ['*']", "expected a list of addresses or networks"),
        ("[auth]\nmode = 'none'", """auth.mode = 'none': expected "keys" or "passthrough" or"""),
        ("[auth]\nmode = ['keys']", "auth.mode = ['keys']: expected"),
        ("[store]\nurl = 'relay.db'", "store.url = (hidden): expected a URL like sqlite:///"),
        ("[store]\ndurability = true", 'store.durability = True: expected "before-forward" or'),
        ("[audit]\nsink = 'file.jsonl'", "audit.sink = 'file.jsonl': expected jsonl:PATH"),
        ("[audit]\naudio = true", "audit.audio is not supported yet"),
        (
            "[store]\nretention_days = 0",
            "store.retention_days = 0: expected a whole number of days",
        ),
        ("[store]\nretention_days = 1.5", "store.retention_days = 1.5: expected a whole number"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(text, said):
    assert said in complaint(complete(text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (key('key = "short"'), "keys[0].key = (hidden): expected 8 to 512 printable"),
        (key('key = "with a space"'), "keys[0].key = (hidden): expected 8 to 512 printable"),
        (key("key = 12345678"), "keys[0].key = (hidden): expected 8 to 512 printable"),
        (key('key_sha256 = "00"'), "keys[0].key_sha256 = (hidden): expected the 64 hex digits"),
        (key(""), "keys[0] needs either key or key_sha256"),
        (key(f'key = "{SECRET}"\nkey_sha256 = "00"'), "keys[0] needs either key or key_sha256"),
        (complete(keys=f'[[keys]]\nkey = "{SECRET}"\n'), "keys[0].name is missing"),
        (complete(keys='[[keys]]\nname = "a b"\nkey = "rk-00000000"\n'), "keys[0].name = 'a b'"),
        (complete(keys=KEYS + KEYS), "keys: the name 'a' is used twice"),
        (key(f'key = "{SECRET}"\nmodels = "x"'), "keys[0].models = 'x': expected a list of model"),
        (key(f'key = "{SECRET}"\nmodels = ["a*b*"]'), "each with at most one *"),
        (key(f'key = "{SECRET}"\nmodels = [""]'), "keys[0].models = ['']"),
        (key(f'key = "{SECRET}"\nbudget_usd = 5.5'), "expected an amount in USD, like"),
        (key(f'key = "{SECRET}"\nbudget_usd = "0.0000001"'), "of at most 6 decimals"),
        (key(f'key = "{SECRET}"\nbudget_usd = "-1"'), "expected an amount in USD"),
        (key(f'key = "{SECRET}"\nbudget_period = "week"'), 'expected "day" or "month" or "total"'),
        (
            key(f'key = "{SECRET}"\nbudget_period = "day"'),
            "keys[0].budget_period is of a budget: give it budget_usd too",
        ),
        (key(f'key = "{SECRET}"\nmax_sessions = 0'), "expected a whole number of sessions"),
        (key(f'key = "{SECRET}"\nmax_tokens_per_minute = 0'), "a whole number of tokens"),
        (key(f'key = "{SECRET}"\nmodel = "x"'), "expected one of name, key_sha256, models,"),
        (key(f'key = "{SECRET}"\nkay = "{SECRET}"'), "keys[0].kay is not a setting"),
        (
            complete(keys=f'[keys]\nname = "a"\nkey = "{SECRET}"\n'),
            "keys = a table: expected a list of tables, [[keys]]",
        ),
        (complete(f'keys = ["{SECRET}"]', keys=""), "keys = (hidden): expected a list of tables"),
        (complete(f'token = "{SECRET}"'), "token is not a setting"),
        (complete(f'upstream = [{{ api_keys = ["{SECRET}"] }}]'), "upstream is not a setting"),
        (
            complete('[store]\nurl = "memory://"', keys=""),
            'keys: auth.mode "keys" needs at least one [[keys]]',
        ),
    ],
)
def test_a_key_that_cannot_be_used_is_named_and_not_shown(text, said):
    assert said in complaint(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (complete(upstreams=""), "upstreams: at least one [[upstreams]] is needed"),
        (complete(upstreams='[[upstreams]]\nname = "u"\n'), "upstreams[0].base_url is missing"),
        (
            complete(upstreams='[[upstreams]]\nname = "u"\nbase_url = "wss://h"\n'),
            "upstreams[0].api_keys is missing",
        ),
        (complete(upstreams=UPSTREAMS * 2), "upstreams: the name 'u' is used twice"),
        (up("weight = 0"), "upstreams[0].weight = 0: expected a whole number of shares from 1"),
        (up("weight = 1.5"), "upstreams[0].weight = 1.5: expected a whole number of shares"),
        (up("ca_file = ''"), "upstreams[0].ca_file = '': expected the path of a PEM file"),
        (
            up("ca_file = 'x'").replace("wss://host", "ws://host"),
            "upstreams[0].ca_file is for a base_url of wss or https only",
        ),
        (up("dialect = 'gemini'"), "upstreams[0].dialect = 'gemini': expected \"openai\" or"),
        (up("priority = -1"), "upstreams[0].priority = -1: expected a whole number of steps"),
        (up("transcription = 1"), "upstreams[0].transcription = 1: expected true or false"),
        (up("api_version = 'latest'"), "upstreams[0].api_version = 'latest': expected a date"),
        (up("api_version = '2025-04-01-preview'"), 'api_version is for dialect "azure" only'),
        (up("models = ['x']"), "upstreams[0].models = ['x']: expected a table"),
        (up("models = {}"), "upstreams[0].models = a table: expected a table from the model"),
        (up("models = { 'a*b*' = 'x' }"), "at most one * in each name"),
        (up("models = { a = 'b*' }"), "'b*' has a * that 'a' does not fill"),
        (up("models = { a = '' }"), "names are 1 to 256 printable characters"),
        (up('models = { a = "x\\ny" }'), "names are 1 to 256 printable characters"),
    ],
)
def test_an_upstream_that_cannot_be_used_is_named(text, said):
    assert said in complaint(text)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (f'["{SECRET}", "{SECRET}"]', "upstreams[0].api_keys: the same key is there twice"),
        (f'["{SECRET}", 3]', "upstreams[0].api_keys = (hidden): expected a list of keys"),
        (f'"{SECRET}"', "upstreams[0].api_keys = (hidden): expected a list of keys"),
        (f'["{SECRET} "]', "upstreams[0].api_keys: a key has characters no header can carry"),
        ("[]", "upstreams[0].api_keys is missing"),
    ],
)
def test_provider_keys_that_cannot_be_used_are_not_shown(keys, said):
    text = f'[[upstreams]]\nname = "u"\nbase_url = "wss://h"\napi_keys = {keys}\n'
    assert said in complaint(complete(upstreams=text))


@pytest.mark.parametrize(
    "url",
    [
        "api.openai.com", "ftp://h/v1", "wss://", "wss:///v1", f"wss://u:{SECRET}@h/v1",
        "wss://@h/v1", f"wss://h/v1?api-key={SECRET}", "wss://h/v1#x", "wss://h:0/v1",
        "wss://h:70000/v1", "wss://h:x/v1", "wss://[::1/v1", "wss://[::zz]/v1", "wss://a..b/v1",
        "wss://.h/v1", "wss://h /v1", "wss://h\\n/v1", "wss://bücher.example/v1",
        "wss://" + "a" * 64 + ".com",
    ],
)  # fmt: skip
def test_a_base_url_that_cannot_be_dialled_stops_the_start_unseen(url):
    text = f'[[upstreams]]\nname = "u"\nbase_url = "{url}"\napi_keys = ["k"]\n'
    assert "base_url = (hidden): expected a URL like wss://" in complaint(complete(upstreams=text))


@pytest.mark.parametrize(
    "url",
    [
        "proxy:3128", f"https://u:{SECRET}@h", f"socks5://u:{SECRET}@h", f"http://u:{SECRET}@",
        f"http://u:{SECRET}@h:0", f"http://u:{SECRET}@h:99999", f"http://u:{SECRET}@h/path",
        f"http://u:{SECRET}@h?q", f"http://u:{SECRET}@h#f", f"http://u:{SECRET} @h",
        f"http://u:{SECRET}@h\\r\\nx", f"http://{SECRET}@[::zz]",
    ],
)  # fmt: skip
def test_a_proxy_that_cannot_be_used_stops_the_start_unseen(url):
    said = complaint(up(f'proxy = "{url}"'))
    assert "upstreams[0].proxy = (hidden): expected a URL like http://" in said


@pytest.mark.parametrize("url", ["http://h", "http://u:p@h:3128/", "http://u@[::1]:1", "env:P"])
def test_every_usual_form_of_a_proxy_is_taken(url):
    [upstream] = read(up(f'proxy = "{url}"'), environ={"P": "http://u:p@h"}).upstreams
    assert upstream.proxy == url.replace("env:P", "http://u:p@h")
    assert url not in repr(upstream)


def test_a_ca_file_is_relative_to_the_settings(tmp_path):
    config = tmp_path / "relay.toml"
    config.write_text(up('ca_file = "ca.pem"'))
    assert settings_from_file(config).upstreams[0].ca_file == str(tmp_path / "ca.pem")


@pytest.mark.parametrize("url", ["ws://h", "wss://h:8443/v1/", "https://h", "http://[::1]:9/v1"])
def test_every_usual_form_of_a_base_url_is_taken(url):
    text = f'[[upstreams]]\nname = "u"\nbase_url = "{url}"\napi_keys = ["k"]\n'
    assert read(complete(upstreams=text)).upstreams[0].base_url == url.rstrip("/")


def test_the_same_secret_under_two_names_is_refused():
    digest = hashlib.sha256(SECRET.encode()).hexdigest().upper()
    twice = f'[[keys]]\nname="a"\nkey="{SECRET}"\n[[keys]]\nname="b"\nkey_sha256="{digest}"\n'
    assert complaint(complete(keys=twice)) == "keys[1] is the same key as keys[0]"


@pytest.mark.parametrize("mode", ["open", "passthrough"])
def test_keys_that_nobody_is_asked_for_are_refused(mode):
    upstreams = UPSTREAMS if mode == "open" else UPSTREAMS.replace('api_keys = ["k"]', "")
    text = complete(f'[auth]\nmode = "{mode}"', upstreams=upstreams)
    assert f'with auth.mode "{mode}" nobody is asked for one' in complaint(text)
    assert read(text.replace(KEYS, "")).auth.mode == mode


def test_a_provider_key_that_would_not_be_used_is_refused():
    text = complete('[auth]\nmode = "passthrough"', keys="")
    assert 'with auth.mode "passthrough" clients bring their own' in complaint(text)


@pytest.mark.parametrize("url", ["oracle://u:pw@h/db", "mongodb://h"])
def test_a_store_that_nobody_knows_stops_the_start(url):
    url = read(complete(f'[store]\nurl = "{url}"')).store.url
    with pytest.raises(ValueError, match="not a known store") as caught:
        open_store(url)
    assert "pw" not in str(caught.value)
    assert "memory://" in str(caught.value)


# -- env: ---------------------------------------------------------------------------------------


def test_a_value_can_come_from_the_environment():
    text = complete(
        '[server]\nmax_sessions = "env:SESSIONS"\nidle_seconds = "env:IDLE"',
        keys='[[keys]]\nname = "env:NAME"\nkey = "env:KEY"\nmodels = ["env:MODEL"]\n',
        upstreams=UPSTREAMS.replace('["k"]', '["env:KEY"]') + 'transcription = "env:FLAG"\n',
    )
    settings = read(
        text,
        {"SESSIONS": "7", "IDLE": "1.5", "NAME": "n", "KEY": SECRET, "MODEL": "m", "FLAG": "false"},
    )
    assert settings.server.max_sessions == 7
    assert settings.server.idle_seconds == 1.5
    assert settings.keys[0].name == "n"
    assert settings.keys[0].models == ("m",)
    assert settings.upstreams[0].api_keys == (SECRET,)
    assert settings.upstreams[0].transcription is False


@pytest.mark.parametrize("environ", [{}, {"KEY": ""}])
def test_a_variable_that_is_not_set_is_named(environ):
    said = "upstreams[0].api_keys[0] = 'env:KEY': that variable is not set"
    text = complete(upstreams=UPSTREAMS.replace('["k"]', '["env:KEY"]'))
    assert complaint(text, environ) == said
    assert "keys[0].key = 'env:KEY': that" in complaint(key('key = "env:KEY"'), environ)
    assert "'env:': that variable" in complaint(key('key = "env:"'), environ)


def test_what_a_variable_holds_is_never_shown():
    for text in (
        complete('[server]\nmax_sessions = "env:V"'),
        complete('[auth]\nmode = "env:V"'),
        complete('[audit]\nsink = "env:V"'),
        complete(keys='[[keys]]\nname = "env:V"\nkey = "rk-00000000"\n'),
        up('dialect = "env:V"'),
    ):
        assert "= 'env:V': expected" in complaint(text, {"V": f"{SECRET} {SECRET}"})


def test_a_key_with_the_newline_of_its_secret_file_is_refused_unseen():
    text = complete(upstreams=UPSTREAMS.replace('["k"]', '["env:KEY"]'))
    assert "a key has characters no header" in complaint(text, {"KEY": SECRET + "\n"})


def test_no_secret_is_in_the_repr():
    text = complete(
        f'[store]\nurl = "other://user:{SECRET}@host/db"',
        keys=f'[[keys]]\nname = "a"\nkey = "{SECRET}"\n',
        upstreams=UPSTREAMS.replace('"k"', f'"{SECRET}"'),
    )
    settings = read(text)
    digest = hashlib.sha256(SECRET.encode()).hexdigest()
    assert settings.keys[0].key_sha256 == digest
    assert SECRET not in repr(settings)
    assert digest not in repr(settings)


# -- the file -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: ("# Schlüssel ☎\n" + text).encode(),
    ],
    ids=["BOM", "CRLF", "UTF-8"],
)
def test_a_file_is_read_as_editors_leave_it(tmp_path, encode):
    file = tmp_path / "relay.toml"
    file.write_bytes(encode(complete()))
    assert settings_from_file(file, {}).upstreams[0].name == "u"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe[\0", "not UTF-8"),
        (b"[server\n", "not TOML: Expected ']'"),
        (b"a = " + b"[" * 5000, "not TOML: "),
        (b"a = " + b"9" * 5000, "not TOML: "),
        (b"[auth]\nmode = 'keys'\nmode = 'open'\n", "not TOML: Cannot overwrite a value"),
        (b"#" * (1 << 20) + b"\n", "more than 1048576 bytes"),
    ],
)
def test_a_file_that_is_no_settings_file_is_refused_in_one_line(tmp_path, content, said):
    file = tmp_path / "relay.toml"
    file.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        settings_from_file(file, {})
    assert str(caught.value).startswith(f"{file}: {said}")
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_never_ends_is_not_read_to_its_end():
    with pytest.raises(SettingsError, match="/dev/zero: more than"):
        settings_from_file("/dev/zero", {})


def test_a_file_that_cannot_be_read_says_how_to_name_one(tmp_path):
    for path, why in ((tmp_path / "none.toml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(SettingsError, match=why) as caught:
            settings_from_file(path, {})
        assert "--config" in str(caught.value)
        assert "RELAY_CONFIG" in str(caught.value)


def test_the_environment_names_the_file(tmp_path, monkeypatch):
    file = tmp_path / "other.toml"
    file.write_text(complete())
    assert settings_from_environment({"RELAY_CONFIG": str(file)}).source == str(file)
    monkeypatch.chdir(tmp_path)
    file.rename(tmp_path / "relay.toml")
    assert settings_from_environment({}).source == "relay.toml"


def test_paths_are_relative_to_the_file(tmp_path, monkeypatch):
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "relay.toml").write_text(
        complete('[store]\nurl = "sqlite:///var/relay.db"\n[audit]\nsink = "jsonl:audit.jsonl"')
    )
    monkeypatch.chdir(tmp_path)
    settings = settings_from_file("etc/relay.toml", {})
    assert settings.store.url == f"sqlite:///{folder}/var/relay.db"
    assert settings.audit.sink == f"jsonl:{folder}/audit.jsonl"


def test_absolute_paths_and_other_stores_stay_as_they_are(tmp_path):
    text = '[store]\nurl = "sqlite:////data/relay.db"\n[audit]\nsink = "jsonl:/data/a.jsonl"'
    settings = read(complete(text), base=tmp_path)
    assert settings.store.url == "sqlite:////data/relay.db"
    assert settings.audit.sink == "jsonl:/data/a.jsonl"
    assert read(complete('[store]\nurl = "memory://"')).store.url == "memory://"


def test_thousands_of_keys_are_read_and_the_wrong_one_is_named():
    keys = "".join(f'[[keys]]\nname="k{i}"\nkey_sha256="{i:064x}"\n' for i in range(8000))
    assert len(read(complete(keys=keys)).keys) == 8000
    assert "keys[8000].key" in complaint(complete(keys=keys + '[[keys]]\nname="x"\nkey="y"\n'))


# -- the example --------------------------------------------------------------------------------


def test_the_example_loads_given_the_variables_it_names():
    text = EXAMPLE.read_text()
    environ = {"RELAY_KEY": "rk-12345678", "OPENAI_API_KEY": "sk-12345678"}
    settings = settings_from_file(EXAMPLE, environ)
    assert [k.name for k in settings.keys] == ["team-a"]
    for name in environ:
        assert f"env:{name}" in text
        with pytest.raises(SettingsError, match=name):
            settings_from_file(EXAMPLE, {k: v for k, v in environ.items() if k != name})


@pytest.mark.parametrize("section", [Server, Auth, Key, Upstream, Store, Audit])
def test_the_example_mentions_every_setting(section):
    assert is_dataclass(section)
    text = EXAMPLE.read_text()
    for setting in fields(section):
        assert f"\n{setting.name} = " in text or f"\n# {setting.name} = " in text, setting.name


def test_what_the_example_has_commented_out_are_the_defaults():
    section = EXAMPLE.read_text().partition("[server]")[2].partition("\n[")[0]
    lines = [line for line in section.splitlines() if line.startswith("# ")]
    server = [
        line[2:] for line in lines if line[2:].split(" =")[0] in {f.name for f in fields(Server)}
    ]
    assert len(server) == len(fields(Server))
    text = complete("[server]\n" + "\n".join(server))
    assert read(text).server == Server()
    assert tomllib.loads(text)["server"]["max_sessions"] == Server().max_sessions


# -- what a command reads -----------------------------------------------------------------------

UNSET = """
[[keys]]
name = "a"
key = "env:NOT_SET"
[[upstreams]]
name = "u"
base_url = "env:NOT_SET"
api_keys = ["env:NOT_SET"]
"""


def test_a_store_may_have_the_keys_that_a_file_has_not():
    assert read(complete(keys="")).keys == ()


def test_a_command_needs_the_variables_of_its_own_sections_alone():
    only = settings_from_toml(
        UNSET + '[store]\nurl = "env:STORE"', environ={"STORE": "redis://h/0"}, only=["store"]
    )
    assert only.store.url == "redis://h/0"
    assert (only.keys, only.upstreams) == ((), ())
    with pytest.raises(SettingsError, match="that variable is not set"):
        settings_from_toml('[store]\nurl = "env:STORE"', environ={}, only=["store"])


def test_a_command_about_keys_reads_all_of_them_but_their_secrets():
    more = 'models = ["x"]\n[[keys]]\nname = "b"\nkey = "env:NOT_SET_EITHER"\n'
    found = settings_from_toml(key(f'key = "env:NOT_SET"\n{more}'), environ={}, only=["keys"]).keys
    assert [(k.name, k.models) for k in found] == [("a", ("x",)), ("b", ("*",))]
    with pytest.raises(SettingsError, match="'a' is used twice"):
        settings_from_toml(complete(keys=KEYS + KEYS), environ={}, only=["keys"])


def test_a_section_that_is_none_is_named_to_every_command():
    with pytest.raises(SettingsError, match="stoer is not a setting"):
        settings_from_toml("[stoer]", environ={}, only=["store"])


# -- keys that stand in no file -----------------------------------------------------------------


def test_a_key_from_elsewhere_is_read_as_in_a_file():
    made = Key.checked(name="a", key_sha256="0" * 64, models=["x*"], budget_usd="5.00")
    assert made == Key("a", "0" * 64, ("x*",), Decimal("5.00"))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"name": "a b"}, "name: expected 1 to 64 letters"),
        ({"models": ["a*b*"]}, "models: expected a list of model names"),
        ({"budget_usd": "5.0000001"}, "budget_usd: expected an amount in USD"),
        ({"budget_usd": "-1"}, "budget_usd: expected an amount in USD"),
        ({"budget_period": "week"}, 'budget_period: expected "day" or "month" or "total"'),
        ({"max_sessions": 0}, "max_sessions: expected a whole number of sessions"),
        ({"max_tokens_per_minute": 0}, "max_tokens_per_minute: expected a whole number"),
        ({"key_sha256": SECRET}, "key_sha256: expected the 64 hex digits"),
        ({"name": SECRET * 9}, "name: expected"),
    ],
)
def test_a_key_from_elsewhere_is_held_to_the_same_rules_and_not_repeated(values, said):
    with pytest.raises(SettingsError) as caught:
        Key.checked(**{"name": "a", "key_sha256": "0" * 64, **values})
    assert str(caught.value).startswith(said)
    assert SECRET not in str(caught.value)


# -- whatever stands in a file -------------------------------------------------------------------

_LINE = re.compile(r"^(?:# )?([a-z_0-9]+) = (.*?)(?: +#.*)?$")
LITERALS = st.one_of(
    st.sampled_from(
        ["true", '""', "[]", "[[]]", "{}", "{a = 1}", "0", "-1", "1e309", "nan", "-inf",
         "1979-05-27", "07:32:00", '"env:"', '"env:UNSET"', '"env:SET"', '["env:SET"]',
         '[1, "a"]', "9" * 400, '"\\u0000"', '"*"', '["*", "**"]', f'"{SECRET}"',
         f'["{SECRET}", 1]', '{"*" = "**"}', "unquoted", '"open', "[", "0x", "1__0"]
    ),
    st.integers().map(str),
    st.floats().map(repr),
    st.text(max_size=20).map(json.dumps),
)  # fmt: skip


@st.composite
def files(draw: st.DrawFn) -> str:
    """The example with all its settings, of which some are missing, said twice or of any value."""
    written = []
    for line in EXAMPLE.read_text(encoding="utf-8").splitlines():
        setting = _LINE.match(line)
        if setting is None:
            written += [line] if line.startswith("[") else []
            continue
        fate = draw(st.sampled_from(["kept"] * 12 + ["gone", "twice", "other", "other"]))
        name, value = setting[1], draw(LITERALS) if fate == "other" else setting[2]
        written += [f"{name} = {value}"] * {"gone": 0, "twice": 2}.get(fate, 1)
    return "\n".join(written)


@given(files())
def test_any_file_is_settings_or_a_line_that_says_what_is_wrong_and_no_secret(text):
    environ = {"SET": SECRET, "RELAY_KEY": SECRET, "OPENAI_API_KEY": SECRET}
    try:
        settings = read(text, environ)
    except SettingsError as error:
        message = str(error)
        assert message.startswith("relay.toml: ")
        assert len(message.splitlines()) == 1
        assert len(message) < 1_000
        assert SECRET not in message
    else:
        assert SECRET not in repr(settings)


@given(files())
def test_of_any_file_a_line_names_the_place_and_no_command_reads_more_than_the_relay(text):
    settings_file.check(text.encode())


@given(st.text(max_size=200))
def test_any_text_is_settings_or_a_line_that_says_what_is_wrong(text):
    assert complaint(text)
