"""Write the pins: constraints.txt, and requirements/*.txt with the hash of every file that may be installed.

python tools/lock.py            # hashes of the versions that constraints.txt names
python tools/lock.py --upgrade  # the newest versions that pyproject.toml allows, but torch's

Needs uv, which asks the package index for the hashes of all files of a release, on every platform. To these comes the
hash of the file that pip takes here, if a mirror has another. torch stands apart, by its version alone: of two files
pip prefers the one whose hash it knows, which would be the index's build with CUDA wherever a CPU build was meant.
requirements/cuda.txt has that build, and what it brings, with hashes.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONSTRAINTS, FOLDER = ROOT / "constraints.txt", ROOT / "requirements"
TESTED = "demo,dev,docs,slurm,ray,optuna,peft,dashboard,tensorboard,sentencepiece"
SETS = {"demo": "demo", "all": TESTED}
"""File → the extras of ptuning whose whole tree it holds. MLflow's tree is in constraints.txt alone."""
BUILD = ("setuptools", "wheel", "editables")
"""What packages without a wheel, and an editable ptuning, are built with beside its own build backend."""
_HEAD = "# The exact versions that this project is tested with, the whole tree. Written by tools/lock.py.\n"


def main() -> None:
    """Resolve every set, and write its file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upgrade", action="store_true", help="let all versions but torch's rise")
    upgrade = parser.parse_args().upgrade
    if not shutil.which("uv"):
        parser.error("there is no uv on the path: pip install uv")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    pins = [line for line in CONSTRAINTS.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    kept = [pin for pin in pins if not upgrade or pin.startswith("torch==")]
    backend = [*project["build-system"]["requires"], *BUILD]
    everything = _resolve([f"{ROOT}[{TESTED},mlflow]", *backend], kept)
    _write(CONSTRAINTS, _HEAD + "".join(f"{name}=={version}\n" for name, (version, _) in everything.items()))
    pins = CONSTRAINTS.read_text("utf-8").splitlines()[1:]
    FOLDER.mkdir(exist_ok=True)
    _write(FOLDER / "build.txt", _with_hashes(_resolve(backend, pins)))
    for name, extras in SETS.items():
        found = _resolve([f"{ROOT}[{extras}]"], pins)
        found.pop("torch")
        _write(FOLDER / f"{name}.txt", _with_hashes(found))
    _write(FOLDER / "cuda.txt", _cuda(pins))


def _resolve(wanted: list[str], pins: list[str]) -> dict[str, tuple[str, str]]:
    """Return package → (version, SHA-256 of the file that pip takes here), but for ptuning itself."""
    limits = ROOT / ".pins.txt"
    limits.write_text("\n".join(pins), "utf-8")
    command = ["-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-", "-c"]
    try:
        done = subprocess.run(
            [sys.executable, *command, str(limits), *wanted], stdout=subprocess.PIPE, check=True, text=True
        )
    finally:
        limits.unlink()
    found = {}
    for one in json.loads(done.stdout)["install"]:
        name, version = one["metadata"]["name"], one["metadata"]["version"]
        if name != "ptuning":
            hashes = one["download_info"]["archive_info"].get("hashes", {})
            found[name] = (version.split("+")[0], hashes["sha256"])
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def _with_hashes(found: dict[str, tuple[str, str]]) -> str:
    pins = "\n".join(f"{name}=={version}" for name, (version, _) in found.items())
    listed = _uv(["--no-deps", "-"], pins)
    blocks = []
    for block in re.split(r"\n(?=\S)", listed.strip()):
        lines = [line.strip().removesuffix("\\").strip() for line in block.splitlines()]
        here = {_plain(name): digest for name, (_, digest) in found.items()}[_plain(lines[0].split("==")[0])]
        hashes = sorted({*lines[1:], f"--hash=sha256:{here}"})
        blocks.append(" \\\n    ".join([lines[0], *hashes]))
    return _HEAD + "\n".join(blocks) + "\n"


def _cuda(pins: list[str]) -> str:
    """Return the pins of Linux on x86-64 with the index's own build of torch, which brings CUDA."""
    return _HEAD + _uv(["--extra", "demo", "--python-platform", "x86_64-manylinux_2_28", "pyproject.toml"], "", pins)


def _uv(arguments: list[str], given: str, pins: list[str] | None = None) -> str:
    limits = ROOT / ".pins.txt"
    limits.write_text("\n".join(pins or []), "utf-8")
    command = ["uv", "pip", "compile", "--quiet", "--generate-hashes", "--no-header", "--no-annotate"]
    where = ["--python", sys.executable, "-c", str(limits)]
    try:
        done = subprocess.run(
            [*command, *where, *arguments], input=given, stdout=subprocess.PIPE, check=True, text=True, cwd=ROOT
        )
    finally:
        limits.unlink()
    return done.stdout


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _write(path: Path, content: str) -> None:
    path.write_text(content, "utf-8")
    sys.stdout.write(f"{path.relative_to(ROOT)}: {len(content.splitlines()):,} lines\n")


if __name__ == "__main__":
    main()
