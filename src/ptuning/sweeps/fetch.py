"""What a sweep's jobs need of the Hub, fetched once, before a hundred nodes ask for it at the same moment."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from ptuning.sweeps.job import Job
from ptuning.system.hub import hub_answers, wants_backbone, wants_dataset
from ptuning.tasks.glue import CUSTOM


def fetch(jobs: Sequence[Job]) -> tuple[Path, ...]:
    """Return where in the Hub's cache all lies that jobs load from the Hub, after fetching it; empty if some is not.

    What cannot be had is left to the jobs, which say so: a node may have another network or another token.
    """
    wanted: dict[str, Callable[[], list[Path]]] = {}
    for job in jobs:
        backbone, data, task = job.config["backbone"], job.config["data"], str(job.config["task"]["name"])
        if wants_backbone(path := str(backbone["path"])):
            wanted[f"{path} {backbone['revision']}"] = partial(_fetch_backbone, path, backbone["revision"])
        if wants_dataset(str(data["source"]), data["path"]):
            config = data["config"] if task == CUSTOM else task
            names = (data["path"], config, data["revision"])
            wanted[f"{names}"] = partial(_fetch_dataset, *names)
    if not wanted or not hub_answers():
        return ()
    found: list[Path] = []
    for load in wanted.values():
        try:
            found += load()
        except Exception:  # noqa: BLE001 - of any library below; the job that needs it says what is wrong
            return ()
    return tuple(found)


def _fetch_backbone(path: str, revision: str | None) -> list[Path]:
    from huggingface_hub import HfApi, snapshot_download

    files = [Path(name) for name in HfApi().list_repo_files(path, revision=revision) if "/" not in name]
    weights = ".safetensors" if any(file.suffix == ".safetensors" for file in files) else ".bin"
    kinds = {weights, ".json", ".txt", ".model"}
    named = [file.name for file in files if file.suffix in kinds]
    return [Path(snapshot_download(path, revision=revision, allow_patterns=named))]


def _fetch_dataset(path: str | None, config: str | None, revision: str | None) -> list[Path]:
    from ptuning.data.hub_datasets import load_splits
    from ptuning.data.sources import GLUE

    splits = load_splits(path or GLUE, config, revision)
    return [Path(file["filename"]) for split in splits.values() for file in split.cache_files]
