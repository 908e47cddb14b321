"""Records as runs leave them, written without training."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ptuning.display.console import console, show_result
from ptuning.runs.limits import part_of_data
from ptuning.runs.record import RECORD, read_record
from ptuning.sweeps.durations import Durations

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


def record(runs: Path, **given: Any) -> Path:
    """Write a record as a run leaves it, and return its folder."""
    about: dict[str, Any] = {
        "task": "rte",
        "source": "local",
        "module": "layernorm",
        "layers": "all",
        "subset": "all",
        "seed": 1,
        "backbone": "minilm",
        "status": "finished",
        "score": 0.7,
        "lr": 1e-3,
        "data": "sha256:one",
        "trainable_parameters": 9216,
        "ended": "2026-01-01T10:00:00+00:00",
        "reason": "",
        "epochs": 2,
        "precision": "32-true",
        "trainer": {},
    } | given
    head = about.pop("head_lr", None)
    chosen = {"patterns": about.pop("patterns")} if "patterns" in about else {}
    scores = about.pop("scores", None)
    drawn = {"train_rows": about.pop("train_rows")} if "train_rows" in about else {}
    lr, data, score, epochs, trainer = (about.pop(name) for name in ("lr", "data", "score", "epochs", "trainer"))
    optimisation = {"lr": lr, "weight_decay": 0.01, "warmup": 0.06, "schedule": "linear"}
    optimisation |= {"head_lr": head} if head else {}
    about |= {
        "key": "0123abcd",
        "begun": "2026-01-01T09:00:00+00:00",
        "optimisation": optimisation,
        "max_epochs": epochs,
        "batch_size": 32,
        "recipe": {
            "format": 1,
            **{name: about[name] for name in ("task", "module", "layers", "subset", "seed")},
            "data": data,
            "backbone": f"sha256:{about['backbone']}",
            "max_length": 128,
            **({"select_on": about["select_on"]} if about.get("select_on", "dev") != "dev" else {}),
            **drawn,
            **chosen,
            "optimisation": optimisation,
            "trainer": {"max_epochs": epochs, "precision": about["precision"], **trainer},
        },
        "train_examples": 3667,
        "versions": {"ptuning": "0.1.0", "torch": "2.13.0"},
        "head_parameters": 770,
        "total_parameters": 1_000_000,
        "trainable_percent": about["trainable_parameters"] / 10_000,
    }
    if about["status"] == "finished":
        scores = scores or [score * e / epochs for e in range(1, epochs + 1)]
        history = [
            {"epoch": float(e), "step": e * 10, "train_loss": 1 / e, "score": one, "accuracy": score}
            for e, one in enumerate(scores, start=1)
        ]
        about |= {"score": score, "history": history, "best": history[-1], "last": history[-1]}
        about = {"seconds": {"train": 3.0, "total": 4.0}, **about}
        about |= {"train_examples_per_second": 50.0, "peak_memory_mb": 900.0}
    place = f"{about['backbone']}/{about['task']}/{about['module']}/{about['layers']}"
    name = (
        f"seed={about['seed']}-{lr:g}-{epochs}-{data.removeprefix('sha256:')}-{about['source']}-{about['ended'][:10]}"
    )
    name += f"-{head or 0:g}-{'+'.join(about.get('score_of', ()))}"
    name += f"-{about['subset']}-{about.get('select_on', 'dev')}-{about['precision']}"
    name += "".join(f"-{key}={value}" for key, value in {**drawn, **chosen, **trainer}.items())
    folder = runs / place / name
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(about, indent=2))
    return folder


def seeds(runs: Path, *scores: float, **given: Any) -> None:
    """Write one record per score, with seeds from 1."""
    for seed, score in enumerate(scores, start=1):
        record(runs, seed=seed, score=score, **given)


def use(folder: Path, values: dict[str, Any]) -> None:
    """Do with a mutated record what commands do with the record of one run."""
    (folder / RECORD).write_text(json.dumps(values))
    found = read_record(folder / RECORD)
    if isinstance(found, str):
        return
    assert isinstance(found.lacks, str)
    assert isinstance(found.columns, dict)
    assert isinstance(found.summary, dict)
    json.dumps(found.as_json())
    part_of_data(found)
    durations = Durations()
    durations.add(found.recipe, 1.0)
    durations.estimate(found.recipe)
    with console.capture():
        show_result(found, str(folder), earlier=True)
