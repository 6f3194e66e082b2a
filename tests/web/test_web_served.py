"""What a server finds of the relay in the application that it serves."""

from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from realtime_support import Upstream, app_with

from relay_app.settings import Server
from relay_app.web.served import count_overdue, heads_for, relay_in


@pytest.fixture
def app(tmp_path: Path, upstream: Upstream) -> Flask:
    return app_with(upstream, tmp_path, server="handshake_seconds = 3")


def wrapped(environ: Any, start_response: Any) -> Any:
    """An application that hides what is in it."""


@pytest.mark.parametrize("application", [Flask("host"), wrapped, None])
def test_where_there_is_no_relay_the_defaults_hold(application: Any):
    assert relay_in(application) is None
    assert heads_for(application).seconds == Server().handshake_seconds
    count_overdue(application, "handshake")


def test_heads_are_waited_for_as_long_as_the_relay_says(app: Flask):
    assert relay_in(app) is app.extensions["relay_app"]
    assert heads_for(app).seconds == 3


@pytest.mark.parametrize(("limit", "refused"), [("handshake", True), ("answer", False)])
def test_who_is_given_up_is_counted(app: Flask, limit: str, refused: bool):
    count_overdue(app, limit)
    metrics = app.test_client().get("/metrics").text
    assert f'relay_limit_refusals_total{{limit="{limit}"}} 1.0' in metrics
    assert ('relay_refused_total{by="client",status="408"} 1.0' in metrics) is refused
