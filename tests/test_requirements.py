"""What is deployed is what setup.cfg asks for: ``make requirements`` writes requirements.txt."""

import re
from configparser import ConfigParser
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
STORES = ("postgres", "redis")

setup = ConfigParser()
setup.read(ROOT / "setup.cfg")
PYTHONS = re.findall(r"Python :: (3\.\d+)", setup["metadata"]["classifiers"])


def asked_for() -> list[Requirement]:
    lines = setup["options"]["install_requires"].split("\n")
    for store in STORES:
        lines += setup["options.extras_require"][store].split("\n")
    return [Requirement(line) for line in lines if line]


def entries() -> list[str]:
    """Each with its hashes, without comments."""
    text = (ROOT / "requirements.txt").read_text()
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return "\n".join(lines).replace("\\\n", "").split("\n")


def wanted(requirement: Requirement, python: str) -> bool:
    """Whether pip would install it, with this CPython on Linux."""
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.99",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "sys_platform": "linux",
        "extra": "",
    }
    return requirement.marker is None or requirement.marker.evaluate(environment)


def pins(python: str) -> dict[str, str]:
    """The version of each package that pip installs with this Python."""
    found = {}
    for entry in entries():
        pin = Requirement(entry.partition("--hash")[0])
        if wanted(pin, python):
            (version,) = pin.specifier
            assert version.operator == "=="
            assert canonicalize_name(pin.name) not in found
            found[canonicalize_name(pin.name)] = version.version
    return found


@pytest.mark.parametrize("python", PYTHONS)
def test_each_dependency_is_pinned_at_a_version_that_is_admitted(python: str):
    pinned = pins(python)
    for requirement in asked_for():
        version = pinned.get(canonicalize_name(requirement.name), "none")
        assert requirement.specifier.contains(version), f"{requirement}: {version} is pinned"


def test_what_the_pinned_need_is_pinned_too():
    pinned = pins(PYTHONS[0])
    looked_at = 0
    for name, version in pinned.items():
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            continue
        if installed.version != version:
            continue  # another version may need others
        looked_at += 1
        for line in installed.requires or ():
            needed = Requirement(line)
            if wanted(needed, PYTHONS[0]):
                has = pinned.get(canonicalize_name(needed.name), "none")
                assert needed.specifier.contains(has), f"{name} needs {needed}: {has} is pinned"
    assert looked_at


def test_what_builds_the_package_is_pinned():
    assert "setuptools" in pins(PYTHONS[0])


def test_each_has_hashes_and_comes_from_the_index():
    for entry in entries():
        pin, *hashes = re.split(r"\s+--hash=", entry.strip())
        assert hashes, pin
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in hashes)
        assert not pin.startswith("-")
        assert Requirement(pin).url is None
