"""Servers that keep their socket to themselves answer 501 and say what to use instead."""

from collections.abc import Iterator

import pytest
from flask import Flask
from servers_support import UNFIT, UPGRADE, Answer, Faces, ask, settings_parts
from support.relays import RelayProcess, relay, write_settings

from relay_app.extension import RealtimeRelay
from relay_app.settings_file import settings_from_file


@pytest.fixture(scope="module", params=UNFIT)
def unfit(
    request: pytest.FixtureRequest, faces: Faces, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RelayProcess]:
    folder = tmp_path_factory.mktemp(request.param)
    with relay(folder, faces.url, server=request.param, **settings_parts(faces)) as running:
        yield running


def check(answer: Answer) -> None:
    assert (answer.status, answer.error["code"]) == (501, "server_not_supported")
    assert "gunicorn -k gevent" in answer.error["message"]


def test_an_upgrade_is_501_and_logged(unfit: RelayProcess):
    check(ask(unfit))
    unfit.process.wait_for("This server cannot carry WebSocket sessions")
    assert "Traceback" not in unfit.output


def test_plain_http_is_501_too(unfit: RelayProcess):
    check(ask(unfit, Upgrade=None, Connection="close"))


def test_the_other_routes_work(unfit: RelayProcess):
    for path in ("/healthz", "/readyz", "/state"):
        assert ask(unfit, path=path, Upgrade=None, Connection="close").status == 200


def test_flasks_test_client_is_such_a_server(tmp_path, faces: Faces):
    app = Flask("host")
    config = write_settings(tmp_path, faces.url)
    RealtimeRelay(app, settings=settings_from_file(config))
    response = app.test_client().get("/v1/realtime?model=echo", headers=UPGRADE)
    assert response.status_code == 501
    assert response.json["error"]["code"] == "server_not_supported"
