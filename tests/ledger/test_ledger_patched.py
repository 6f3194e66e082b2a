"""The same suite once more in a monkey-patched process, as under gunicorn."""

import os
from pathlib import Path

import pytest
from ledger_support import finish, python
from store_support import POSTGRES, REDIS


@pytest.mark.parametrize(
    "module",
    [
        "test_ledger_accountant.py",
        "test_ledger_contract.py",
        "test_ledger_contract_keys.py",
        "test_ledger_contract_leases.py",
        "test_ledger_contract_retention.py",
        "test_ledger_journal_accountant.py",
    ],
)
def test_stores_and_accountant_work_monkey_patched(
    module: str, postgres_server: str, redis_server: str
) -> None:
    here = Path(__file__).parent
    script = """
from gevent import monkey; monkey.patch_all()
import pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""
    servers = {POSTGRES: postgres_server, REDIS: redis_server}  # one each is enough
    out = finish(python(script, str(here / module), cwd=here.parents[1], env=os.environ | servers))
    assert "passed" in out
