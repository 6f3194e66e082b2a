"""The same suite once more in a monkey-patched process, as under gunicorn."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
from gevent import monkey; monkey.patch_all()
import sys, pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""


def test_links_work_monkey_patched() -> None:
    here = Path(__file__).parent
    modules = ["test_wire_link.py", "test_wire_outgoing.py", "test_wire_connection.py"]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *(str(here / module) for module in modules)],
        cwd=here.parents[1],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
