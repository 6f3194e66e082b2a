"""The same suite once more in a monkey-patched process, as under gunicorn."""

from pathlib import Path

from ledger_support import finish, python


def test_stores_and_accountant_work_monkey_patched() -> None:
    here = Path(__file__).parent
    script = """
from gevent import monkey; monkey.patch_all()
import pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""
    modules = [
        "test_ledger_accountant.py",
        "test_ledger_contract.py",
        "test_ledger_journal_accountant.py",
    ]
    out = finish(python(script, *(str(here / module) for module in modules), cwd=here.parents[1]))
    assert "passed" in out
