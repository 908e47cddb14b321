"""What jobs on other machines need of the Hub is fetched once, before they start."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ptuning.backbones.load import load_model, load_tokenizer
from ptuning.backbones.source import find_backbone
from ptuning.tasks.glue import TASKS
from support.hub import COMMIT, hub_with
from support.sweeps import records, sweep

MODEL = "lab/tiny-bert"
PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder as it lies on the Hub, with weights for another library too."""
    folder = tmp_path_factory.mktemp("hub") / "tiny-bert"
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    source = find_backbone("random:tiny", config=sizes)
    load_model(source, TASKS["rte"], seed=1).base_model.save_pretrained(folder)
    load_tokenizer(source).save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(b"weights for another library")
    return folder


FETCH = """
import json, sys
from ptuning.sweeps.fetch import fetch
from ptuning.sweeps.job import Job

def jobs(*paths):
    data = {"source": "synthetic", "path": None, "config": None, "revision": None}
    configs = [{"backbone": {"path": path, "revision": None}, "data": data, "task": {"name": "rte"}} for path in paths]
    return [Job(number, "", "rte", "", config) for number, config in enumerate(configs)]

print(json.dumps([[str(path) for path in fetch(jobs(*paths))] for paths in json.loads(sys.argv[1])]))
"""


def fetched(address: str, home: Path, *grids: list[str], **environment: str) -> list[list[str]]:
    """What `fetch` returns for grids of backbones, in a process that knows a Hub."""
    around = {name: value for name, value in os.environ.items() if name not in PROXIES}
    around |= {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", **environment}
    command = [sys.executable, "-c", FETCH, json.dumps(grids)]
    done = subprocess.run(command, env=around, capture_output=True, text=True, timeout=120, check=True)
    return list(json.loads(done.stdout.splitlines()[-1]))


def test_a_backbone_of_many_jobs_is_fetched_once_and_without_what_no_job_reads(model: Path, tmp_path: Path) -> None:
    with hub_with(MODEL, model) as (address, asked):
        many, unknown, both, none = fetched(
            address, tmp_path, [MODEL] * 50, ["lab/unknown"], [MODEL, "lab/unknown"], ["random:tiny", str(model)]
        )
        offline = fetched(address, tmp_path, [MODEL], HF_HUB_OFFLINE="1")
    [folder] = map(Path, many)
    assert folder.name == COMMIT
    assert {file.name for file in folder.iterdir()} == {file.name for file in model.iterdir()} - {"pytorch_model.bin"}
    assert len([one for one in asked if one.startswith("GET") and one.endswith("model.safetensors")]) == 1
    assert (unknown, both, none, offline) == ([], [], [], [[]])  # jobs say themselves what they cannot have


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="the extra `slurm` is not installed")
def test_jobs_on_other_machines_do_not_ask_the_hub_for_what_was_fetched(model: Path, tmp_path: Path) -> None:
    with hub_with(MODEL, model) as (address, asked):
        around = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        grid = (f"backbone.path={MODEL}", "module=query,bias", "hydra/launcher=submitit")
        sweep(tmp_path / "runs", *grid, **around)
    assert {record["status"] for record in records(tmp_path / "runs").values()} == {"finished"}
    for name in ("config.json", "tokenizer.json", "model.safetensors"):  # the grid is looked at before: config.json
        assert len([one for one in asked if one.startswith("GET") and one.endswith(f"/{name}")]) == 1
    fetched = max(number for number, one in enumerate(asked) if one.startswith("GET /lab"))
    assert asked[fetched + 1 :] == []
