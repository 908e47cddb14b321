"""What a sweep knows before its jobs run: the grid, what is done, what the rest may cost, what goes first."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ptuning.backbones.resolvers import all_modules, block_modules
from ptuning.config.compose import Restored, compose, config_folder, restore
from ptuning.config.rules import check
from ptuning.display.format import format_seconds
from ptuning.errors import ConfigError
from ptuning.selection.architectures import ARCHITECTURES
from ptuning.sweeps.composed import ComposedOnce
from ptuning.sweeps.durations import Durations
from ptuning.sweeps.job import Job
from ptuning.sweeps.scheduler import order
from ptuning.sweeps.work import Work
from ptuning.training.plan import make_plan
from support.commands import TypeIt
from support.running import ROOT, TINY, Run, run_in


@pytest.fixture(scope="module")
def one_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_in(tmp_path_factory.mktemp("runs"), *TINY, "module=query")


def test_a_dry_run_says_what_is_done_what_is_left_and_what_it_may_cost(one_run: Run, type_it: TypeIt) -> None:
    runs_dir = one_run.path.parents[4]
    records = {path: path.read_bytes() for path in runs_dir.rglob("record.json")}
    out = type_it("-m", *TINY, "module=query,key", "layers=all,0,9", f"runs_dir={runs_dir}", "dry_run=true").out
    assert "6 jobs: 1 done, 3 to run, 2 cannot run" in out
    assert f"module=query layers=all  done    score {100 * one_run.record['score']:.1f}" in out
    assert "layers=9 names layer 9" in out
    seconds = one_run.record["seconds"]["total"]
    assert f"about {format_seconds(3 * seconds)}, by the records so far" in out
    assert {path: path.read_bytes() for path in runs_dir.rglob("record.json")} == records


def test_jobs_are_composed_with_the_variables_that_hydra_sets(
    tmp_path: Path, type_it: TypeIt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PTUNING_HEAD", "trained")  # put back afterwards
    monkeypatch.delenv("PTUNING_HEAD")
    head = "optim.head=${oc.env:PTUNING_HEAD}"
    told = type_it(
        "-m", *TINY, "seed=1,2", head, f"runs_dir={tmp_path}", "dry_run=true", "+hydra.job.env_set.PTUNING_HEAD=trained"
    )
    assert "2 jobs: 0 done, 2 to run" in told.out, told.err


def test_a_dry_run_of_one_run_trains_nothing(tmp_path: Path, type_it: TypeIt) -> None:
    out = type_it(*TINY, f"runs_dir={tmp_path}", "dry_run=true").out
    assert "1 job: 0 done, 1 to run" in out
    assert "No record of a like run" in out
    assert not list(tmp_path.rglob("record.json"))
    mistake = type_it(*TINY, "layers=7", "dry_run=true")
    assert mistake.code == 2
    assert "names layer 7" in mistake.err


@pytest.mark.slow
@pytest.mark.slow
def test_the_grids_of_the_paper_are_one_command(tmp_path: Path, type_it: TypeIt) -> None:
    tiny = ("backbone=tiny", "data=synthetic", "logger=none", f"runs_dir={tmp_path}", "dry_run=true")
    out = type_it("experiment=modules", *tiny, "task=rte").out
    assert "54 jobs: 0 done, 54 to run" in out  # 18 modules × 3 seeds
    out = type_it("experiment=layers", *tiny, "task=rte", "seed=1", "module=query,layernorm").out
    assert "6 jobs: 0 done, 6 to run" in out  # the two single layers of this backbone, and all
    assert "module=query layers=1" in out
    out = type_it("experiment=magnitude", *tiny, "module=query,output", "seed=1").out
    assert "24 jobs: 0 done, 24 to run" in out  # all, and the largest, smallest and random ones of each, at three rates
    assert "module=query subset=bottom:1%" in out
    out = type_it("experiment=quick", *tiny, "layers=all").out
    assert "4 jobs: 0 done, 4 to run" in out


def test_every_grid_composes_and_has_as_many_jobs_as_its_page_says() -> None:
    page = (ROOT / "docs/sweeps.md").read_text()
    said = dict(re.findall(r"^\| `experiment=(\w+)` \| (\d+) \|", page, flags=re.M))
    files = {file.stem for file in (config_folder() / "experiment").glob("*.yaml")}
    assert files == {*said, "layers", "demo", "race"}  # as many jobs as the backbone has layers; as the race needs
    for name, jobs in said.items():
        params = grid(name)
        assert math.prod(len(values) for values in params.values()) == int(jobs), name
        for choice in ({key: values[0] for key, values in params.items()}, {k: v[-1] for k, v in params.items()}):
            typed = [f"{key}={value}" for key, value in choice.items()]
            made = make_plan(compose([f"experiment={name}", *OFFLINE, *typed]))
            assert made.optimisation.head_lr == 0.01 or "full" in made.modules, name


def test_the_papers_grid_is_that_of_its_backbones_modules() -> None:
    paper, modules = grid("paper"), grid("modules")
    assert paper == modules
    assert grid("paper_small") == {**paper, "task": ["cola", "mrpc", "stsb", "rte"]}
    for name in ("paper", "paper_small"):
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            assert hydra_compose("config", [f"experiment={name}"]).backbone.path == "bert-base-uncased"


def test_the_arithmetic_of_a_grid_on_glue_is_known_before_anything_runs(tmp_path: Path, type_it: TypeIt) -> None:
    work = Work()

    def estimate(*typed: str) -> float | None:
        return work.estimate(make_plan(compose([*OFFLINE, "data=hub", "task=rte", *typed])))

    forward = 2 * 84_934_656 * 67  # twelve blocks of 7,077,888 weights in matrices, 67 tokens
    epochs = ("trainer.max_epochs=2",)
    assert estimate("module=frozen", *epochs) == 2 * forward * (2_490 + 277)
    assert estimate("module=full", *epochs) == 2 * forward * (3 * 2_490 + 277)
    assert estimate("module=layernorm", *epochs) == 2 * forward * (2 * 2_490 + 277)
    assert estimate("module=layernorm", "layers=11", *epochs) == pytest.approx(2 * forward * (13 / 12 * 2_490 + 277))
    assert estimate("module=frozen", "data.train_rows=100", *epochs) == 2 * forward * (100 + 277)
    assert estimate("data=synthetic") is None
    typed = ("backbone=tiny", "data=hub", "logger=none", f"runs_dir={tmp_path}", "dry_run=true", "seed=1,2")
    assert re.search(r"about 2\.4e\+10 floating-point operations", type_it("-m", *typed, "module=frozen", *epochs).out)


OFFLINE = ("backbone=bert-base-random", "data=synthetic", "logger=none", "trainer.accelerator=cpu")


def grid(name: str) -> dict[str, list[str]]:
    """What an experiment sweeps over: key → values."""
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        cfg = hydra_compose("config", [f"experiment={name}", *OFFLINE], return_hydra_config=True)
    return {str(key): str(value).split(",") for key, value in cfg.hydra.sweeper.params.items()}


BERTS = (
    "full,frozen,layernorm,layernorm_gain,layernorm_bias,bias,attention,ffn,query,key,value,attention_output,"
    "attention_layernorm,intermediate,output,output_layernorm,embeddings,pooler"
)


@pytest.mark.parametrize(
    ("family", "differs"),
    [
        ("bert", {}),
        ("roberta", {",pooler": ""}),
        ("distilbert", {",pooler": ""}),
        ("deberta-v2", {",pooler": ",relative_positions"}),
        (
            "modernbert",
            {
                ",query,key,value": ",query_key_value",
                ",layernorm_bias,bias": "",
                ",pooler": ",final_layernorm,prediction_head",
            },
        ),
    ],
)
def test_the_grid_over_modules_follows_the_backbone(
    family: str, differs: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("ptuning.backbones.load.load_model", load)
    backbone = OmegaConf.create({"path": "random:x", "revision": None, "config": {"model_type": family}})
    expected = BERTS
    for ours, theirs in differs.items():
        assert ours in expected
        expected = expected.replace(ours, theirs)
    assert all_modules(backbone) == expected
    in_blocks = block_modules(backbone).split(",")
    assert in_blocks[0] == "layernorm"
    assert set(in_blocks) == set(expected.split(",")) & (set(ARCHITECTURES[family].in_block) | {"layernorm", "bias"})


def recipe(**given: Any) -> dict[str, Any]:
    trainer = {"max_epochs": given.pop("epochs", 2), "precision": "32-true"}
    common = {"backbone": "b", "data": "d", "task": "rte", "module": "query", "layers": "all", "batch_size": 32}
    return {**common, "trainer": trainer, **given}


JOBS = (
    ("task=stsb", "module=[query,value]", "layers=last:1", "seed=2", "optim.lr=null"),
    ("task=rte", "module=layernorm", "layers=[0,1]", "seed=1", "optim.lr=1e-3"),
    ("task=rte", "module=layernorm", "layers=0", "seed=3", "predict=[test]", "data.sizes={train:3}"),
    ("task=rte", "module=layernorm", "layers=0", "seed=3", "backbone.config.model_type=roberta"),
    ("task=rte", "module=layernorm", "layers=0", "seed=3", "trainer.max_epochs=many"),
    ("task=rte", "module=layernorm", "layers=0", "sed=3"),
    ("task=rte", "module=layernorm", "layers=0", "seed=-1"),
    ("task=rte", "module=layernorm", "layers=0", "seed=1"),
)


def test_what_jobs_share_is_composed_once_and_each_job_is_what_hydra_makes_of_it() -> None:
    def of(ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except (ConfigError, HydraException) as error:
            return str(error)

    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        fixed = ["backbone=tiny", "data=synthetic", "logger=none"]
        master = hydra.compose_config("config", fixed, RunMode.MULTIRUN, with_log_configuration=False)
        once, restored = ComposedOnce(hydra.config_loader), Restored()
        values = {}
        for job in JOBS:
            overrides = [*fixed, *job]
            values[job] = of(lambda overrides=overrides: once.values(master, overrides))
            expected = of(lambda overrides=overrides: plain(hydra.config_loader.load_sweep_config(master, overrides)))
            assert values[job] == expected
            if isinstance(expected, dict):
                typed = of(lambda one=values[job]: check(restored.config(one)))
                assert repr(typed) == repr(of(lambda one=expected: check(restore(one))))
    assert values[JOBS[1]]["trainer"] is values[JOBS[-2]]["trainer"] is values[JOBS[-1]]["trainer"]


def plain(cfg: DictConfig) -> Any:
    return OmegaConf.to_container(OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]), resolve=True)


def test_durations_come_from_the_runs_that_are_most_alike_and_grow_with_epochs() -> None:
    durations = Durations()
    assert durations.estimate(recipe()) is None
    durations.add(recipe(layers="0"), 20.0)
    assert durations.estimate(recipe()) == 20.0  # the module's other layers
    assert durations.estimate(recipe(module="key", epochs=4)) == 40.0  # the same work otherwise
    durations.add(recipe(seed=2), 30.0)
    durations.add(recipe(seed=3), 50.0)
    assert durations.estimate(recipe(seed=9)) == 40.0
    assert durations.estimate(recipe(layers="0")) == 20.0
    assert durations.estimate(recipe(data="another")) is None
    assert durations.estimate(recipe(batch_size=8)) is None


def test_durations_are_read_from_finished_records_and_broken_ones_are_passed_over(tmp_path: Path) -> None:
    for name, content in {
        "a": json.dumps({"status": "finished", "recipe": recipe(), "seconds": {"total": 8.0}}),
        "b": json.dumps({"status": "failed", "recipe": recipe(), "seconds": {"total": 800.0}}),
        "c": "{",
        "d": json.dumps({"status": "finished"}),
        "e": "[]",
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(content)
    durations = Durations()
    assert durations.read(tmp_path) == 1
    assert durations.estimate(recipe()) == 8.0


def test_neighbours_share_task_and_backbone() -> None:
    jobs = [Job(n, str(n), task, f"minilm {task}", {}) for n, task in enumerate(["rte", "mrpc", "rte", "mrpc", "cola"])]
    assert [job.number for job in order(jobs)] == [0, 2, 1, 3, 4]


def test_long_jobs_go_first_and_unknown_ones_before_them() -> None:
    jobs = [Job(n, str(n), task, task, {}) for n, task in enumerate(["rte", "mrpc", "rte", "mrpc", "cola"])]
    seconds = {0: 1.0, 1: 5.0, 2: 3.0, 3: 9.0, 4: None}
    assert [job.number for job in order(jobs, lambda job: seconds[job.number])] == [4, 3, 1, 2, 0]
