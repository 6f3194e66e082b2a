"""The same suite once more in a monkey-patched process, as under gunicorn."""

import os
from pathlib import Path

from ledger_support import finish, python
from store_support import POSTGRES, REDIS


def test_stores_and_accountant_work_monkey_patched(postgres_server: str, redis_server: str) -> None:
    here = Path(__file__).parent
    script = """
from gevent import monkey; monkey.patch_all()
import pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""
    modules = [
        "test_ledger_accountant.py",
        "test_ledger_contract.py",
        "test_ledger_contract_keys.py",
        "test_ledger_contract_leases.py",
        "test_ledger_contract_retention.py",
        "test_ledger_journal_accountant.py",
    ]
    paths = [str(here / module) for module in modules]
    servers = {POSTGRES: postgres_server, REDIS: redis_server}  # one each is enough
    out = finish(python(script, *paths, cwd=here.parents[1], env=os.environ | servers))
    assert "passed" in out
