"""Importing costs nothing and touches nothing: no file, socket, thread or variable of ours."""

import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "relay_app"
MODULES = sorted(
    ".".join(("relay_app", *p.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for p in PACKAGE.rglob("*.py")
    if p.name != "gunicorn.py"  # gunicorn's configuration: it patches and reads on purpose
)

WATCH = """
import sys, os, importlib

class Watched(type(os.environ)):
    def __getitem__(self, name):
        # The package's own variables, and keys: others are read by libraries for themselves.
        name = name.decode() if isinstance(name, bytes) else name
        assert not name.startswith("RELAY") and "API_KEY" not in name, name
        return super().__getitem__(name)

os.environ = Watched(os.environ._data, os.environ.encodekey, os.environ.decodekey,
                     os.environ.encodevalue, os.environ.decodevalue)

def watch(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        writes = mode is not None and set(str(mode)) & set("wax+")
        creates = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if (writes or creates) and path != os.devnull:
            print("writes", path)
    elif event.startswith("socket.") and event not in ("socket.__new__", "socket.gethostname"):
        print(event, arguments)
    elif event == "socket.__new__" and sys.platform == "linux":
        print(event, arguments[1:])
    elif event in ("os.mkdir", "os.remove", "os.rename", "os.fork", "subprocess.Popen"):
        print(event, arguments)

# The libraries come first: what they do at their import is theirs to answer for.
import encodings.idna, email.message
import click, flask, flask_sock, gevent, gevent.monkey, gevent.socket, gevent.ssl, geventwebsocket
import prometheus_client, simple_websocket, sqlalchemy, tiktoken, ujson, wsproto
import geventwebsocket.gunicorn.workers, gevent.threadpool, gevent.server, gevent.pool
import prometheus_client.multiprocess, sqlalchemy.dialects.sqlite
sys.dont_write_bytecode = True
threads = len(os.listdir("/proc/self/task"))
sys.addaudithook(watch)
for module in sys.argv[1:]:
    importlib.import_module(module)
    print("imported", module)

if len(os.listdir("/proc/self/task")) > threads:
    print("started a thread")
assert not gevent.monkey.is_anything_patched()
"""


def run(script: str, *arguments: str, env: dict[str, str] | None = None) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=env,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_importing_every_module_opens_writes_and_starts_nothing():
    said = run(WATCH, *MODULES)
    assert [line for line in said if not line.startswith("imported")] == []
    assert said == [f"imported {module}" for module in MODULES]


@pytest.mark.parametrize(
    ("sin", "seen"),
    [
        ("open('written', 'w').close()", "writes written"),
        ("import socket; socket.socket().close()", "socket.__new__"),
        ("import time, _thread; _thread.start_new_thread(time.sleep, (60,))", "started a thread"),
    ],
)
def test_the_watch_sees_what_it_watches_for(tmp_path, sin, seen):
    (tmp_path / "sinner.py").write_text(sin)
    script = f"import os; os.chdir({str(tmp_path)!r})\nimport sys; sys.path.insert(0, '')\n{WATCH}"
    assert any(line.startswith(seen) for line in run(script, "sinner"))


def test_the_watch_sees_a_variable_of_ours_being_read():
    script = f"{WATCH}\nos.environ.get('RELAY_CONFIG')"
    with pytest.raises(AssertionError, match="RELAY_CONFIG"):
        run(script)


@pytest.mark.parametrize("module", ["relay_app", "relay_app.settings_file", "relay_app.cli"])
def test_a_light_module_brings_no_heavy_library_along(module):
    heavy = {"flask", "gevent", "sqlalchemy", "tiktoken", "prometheus_client"}
    loaded = run(f"import sys, {module}; print(*sys.modules, sep='\\n')")
    assert not heavy & set(loaded)


def test_the_package_is_imported_without_patching_anything():
    script = "import relay_app.app, gevent.monkey as m; print(m.is_anything_patched())"
    assert run(script) == ["False"]


def test_the_package_is_imported_by_a_process_that_was_patched_first():
    script = "from gevent import monkey; monkey.patch_all(); import relay_app.app, relay_app.cli"
    assert run(script) == []
