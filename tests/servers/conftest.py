from collections.abc import Iterator

import pytest
from servers_support import CARRIERS, Faces, many_faced, settings_parts
from support.relays import RelayProcess, relay


@pytest.fixture(scope="session")
def faces() -> Iterator[Faces]:
    with many_faced() as listening:
        yield listening


@pytest.fixture(scope="session", params=CARRIERS)
def server(
    request: pytest.FixtureRequest, faces: Faces, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RelayProcess]:
    """The relay on each server that can carry it, one process for all tests."""
    folder = tmp_path_factory.mktemp(request.param)
    parts = settings_parts(faces)
    with relay(folder, faces.url, server=request.param, **parts) as running:
        running.name = request.param
        yield running
