"""What is installed: versions that were malicious stay out, and nothing comes without a hash."""

import re
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from support.running import ROOT

FILES = sorted((ROOT / "requirements").glob("*.txt"))


@pytest.mark.parametrize("name", ["lightning", "pytorch-lightning"])
@pytest.mark.parametrize("version", ["2.6.2", "2.6.3"])
def test_releases_that_were_malicious_are_excluded_by_name(name: str, version: str) -> None:
    found = [one for one in map(Requirement, requires("ptuning") or []) if one.name == name]
    assert len(found) == 1
    excluded = {Version(one.version) for one in found[0].specifier if one.operator == "!="}
    assert Version(version) in excluded


def test_there_are_pins_for_everything() -> None:
    assert [file.stem for file in FILES] == ["all", "build", "cuda", "demo"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_pin_is_exact_and_has_hashes(file: Path) -> None:
    blocks = re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", file.read_text(), flags=re.MULTILINE).strip())
    for block in blocks:
        assert re.match(r"[\w.-]+(\[[\w,-]+\])?==\S+", block), block
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), block


def test_pins_are_what_the_project_allows() -> None:
    pins = pinned(ROOT / "constraints.txt")
    for file in FILES:
        ours = {name: version for name, version in pinned(file).items() if file.stem != "cuda" or name in pins}
        assert ours.items() <= pins.items(), file.name
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for one in map(Requirement, [*project["project"]["dependencies"], *project["build-system"]["requires"]]):
        assert Version(pins[one.name]) in one.specifier, one.name


def pinned(file: Path) -> dict[str, str]:
    found = re.findall(r"^([\w.-]+)(?:\[.*\])?==(\S+)", file.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def test_torch_stands_apart_but_for_the_build_with_cuda() -> None:
    assert [file.stem for file in FILES if "torch" in pinned(file)] == ["cuda"]
    assert "torch" in pinned(ROOT / "constraints.txt")


def test_setting_up_takes_hashes() -> None:
    recipe = (ROOT / "Makefile").read_text().partition("define set_up")[2].partition("endef")[0]
    build, tree, torch, own = [line for line in recipe.splitlines() if "$(PIP)" in line]
    assert "--require-hashes" in build
    assert "--require-hashes --no-deps --no-build-isolation" in tree
    assert "torch==" in torch
    assert "--no-deps --no-build-isolation -e ." in own
