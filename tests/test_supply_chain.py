"""What is installed: versions that were malicious stay out, and nothing comes without a hash."""

import re
import tomllib
from importlib.metadata import requires

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
def test_every_pin_is_exact_and_has_hashes(file) -> None:
    blocks = re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", file.read_text(), flags=re.MULTILINE).strip())
    for block in blocks:
        assert re.match(r"[\w.-]+(\[[\w,-]+\])?==\S+", block), block
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), block


def test_pins_are_what_the_project_allows() -> None:
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE))
    for file in FILES[:2] + FILES[3:]:
        for name, version in re.findall(r"^([\w.-]+)==(\S+)", file.read_text(), flags=re.MULTILINE):
            assert pins[name] == version, f"{file.name}: {name}"
    named = {re.sub(r"[-_.]+", "-", name).lower(): Version(version) for name, version in pins.items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for one in map(Requirement, [*project["project"]["dependencies"], *project["build-system"]["requires"]]):
        assert named[one.name] in one.specifier, one.name


def test_a_cpu_build_of_torch_and_the_index_s_are_both_listed() -> None:
    for name in ("demo", "all"):
        text = (ROOT / "requirements" / f"{name}.txt").read_text()
        block = next(block for block in re.split(r"\n(?=\S)", text) if block.startswith("torch=="))
        assert block.count("--hash=sha256:") > 10


def test_setting_up_takes_hashes() -> None:
    recipe = (ROOT / "Makefile").read_text().partition("define set_up")[2].partition("endef")[0]
    installs = [line for line in recipe.splitlines() if "$(PIP)" in line]
    assert len(installs) == 3
    assert all("--require-hashes" in line for line in installs[:2])
    assert "--no-deps" in installs[2]
    assert all("--no-build-isolation" in line for line in installs[1:])
