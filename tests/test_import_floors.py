"""The architecture: who may import whom. The lists here are its definition."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "relay_app"

FLOORS = [
    {"app", "extension", "cli", "commands", "quickstart"},
    {"web"},
    {"simulator"},
    {"session"},
    {"upstream", "ledger", "observe"},
    {"wire", "meter"},
    {"settings", "settings_file", "snapshot", "codec", "errors", "breath", "moderation"},
]
FRIENDS = {
    "app", "extension", "cli", "commands", "quickstart", "settings", "settings_file", "snapshot",
    "codec", "errors", "breath", "moderation",
}  # fmt: skip
"""Modules of one concern, split by size: they may import each other."""
SIMULATOR_MAY = {"simulator", "codec", "errors"}

ONLY_IN = {
    # what                 where
    ("flask", "flask_sock", "werkzeug"): ("web/", "app.py", "extension.py"),
    ("json", "ujson", "orjson"): ("codec.py",),
    ("asyncio",): (),
}
ENVIRONMENT = {
    "settings_file.py": "what it is for",
    "commands/serve.py": "hands --config, and where SQLite may sort, on to the process it becomes",
    "quickstart.py": "asks whether there is an OpenAI key, before there are settings",
    "observe/metrics.py": "PROMETHEUS_MULTIPROC_DIR is prometheus-client's own contract",
    "web/gunicorn.py": "sets PROMETHEUS_MULTIPROC_DIR for the workers it forks",
}

MODULES = sorted(str(p.relative_to(PACKAGE)) for p in PACKAGE.rglob("*.py"))


def imported(module: str) -> list[str]:
    """The dotted names that a module imports, inside functions too."""
    names = []
    for node in ast.walk(ast.parse((PACKAGE / module).read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            plain = [node.module] if node.module != "relay_app" else []
            names += plain + [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def part_of(name: str) -> str:
    """``relay_app.web.auth`` and ``web/auth.py`` belong to ``web``."""
    return name.removeprefix("relay_app.").replace("/", ".").removesuffix(".py").split(".")[0]


def floor_of(part: str) -> int:
    return next(i for i, floor in enumerate(FLOORS) if part in floor)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_nothing_from_above_nor_from_beside(module):
    part = part_of(module)
    for name in imported(module):
        other = part_of(name)
        if not name.startswith("relay_app.") or other in (part, "__version__"):
            continue
        assert part != "__init__", "the package itself imports nothing"
        below = floor_of(other) > floor_of(part)
        beside = {part, other} <= FRIENDS and floor_of(other) == floor_of(part)
        assert below or beside, f"{module} imports {name}"
        assert part != "simulator" or other in SIMULATOR_MAY, f"{module} imports {name}"
        assert other != "simulator" or floor_of(part) == 0, f"{module} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_a_library_is_imported_only_where_it_belongs(module):
    for libraries, places in ONLY_IN.items():
        found = {name.partition(".")[0] for name in imported(module)} & set(libraries)
        assert not found or module.startswith(places), f"{module} imports {found}"


@pytest.mark.parametrize("module", MODULES)
def test_the_environment_is_read_only_where_there_is_a_reason_to(module):
    tree = ast.parse((PACKAGE / module).read_text())
    used = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)} | {
        name.rpartition(".")[2] for name in imported(module)
    }
    assert (
        not used
        & {"environ", "environb", "getenv"} - ({"environ"} if reads_wsgi_alone(tree) else set())
        or module in ENVIRONMENT
    ), module


def reads_wsgi_alone(tree: ast.Module) -> bool:
    """Whether every ``.environ`` is a request's and none the process's."""
    owners = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "environ"
    ]
    return not any(isinstance(owner, ast.Name) and owner.id == "os" for owner in owners)


def test_every_module_has_a_floor():
    parts = {part_of(module) for module in MODULES} - {"__init__"}
    assert parts == set().union(*FLOORS)
