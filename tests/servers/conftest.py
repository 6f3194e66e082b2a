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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what a server cannot do: deselected with a reason, so that a skip stays news."""
    left_out = [item for item in items if not _fits(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


def _fits(item: pytest.Item) -> bool:
    name = getattr(item, "callspec", None) and item.callspec.params.get("server")
    if name not in CARRIERS:
        return True
    only = [mark.args for mark in item.iter_markers("only_on")]
    never = [mark.args for mark in item.iter_markers("not_on")]
    return all(name in servers for servers in only) and not any(name in s for s in never)
