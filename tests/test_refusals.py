"""What Lightning refuses is one sentence and exit code 2; what it takes trains."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from ptuning.backbones.synthetic_tokenizer import synthetic_tokenizer
from ptuning.data.datamodule import GlueDataModule
from ptuning.data.sources import SyntheticSource
from ptuning.errors import ConfigError
from ptuning.tasks.glue import TASKS
from ptuning.training.module import GlueClassifier
from ptuning.training.optim import Optimisation
from ptuning.training.refusals import explain_refusals
from support.commands import TypeIt
from support.families import tiny
from support.running import TINY, Train

SMALL = ("module=frozen", "data.sizes.train=32", "trainer.max_epochs=1")
EARLY = "_target_: lightning.pytorch.callbacks.EarlyStopping, mode: max, monitor"


class TakesNothing(pl.Callback):
    """Its hook lacks the arguments that Lightning gives."""

    def on_train_batch_end(self) -> None:  # type: ignore[override]
        """Never begun."""


class Fails(pl.Callback):
    """A callback with a mistake inside."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        int("seven")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("trainer.devices=[0]", r"trainer.devices selected with `CPUAccelerator`.* Type trainer.devices=1"),
        ("trainer.limit_train_batches=0.01", "batches of train is none"),
        ("trainer.val_check_interval=100", "trainer.check_val_every_n_epoch=null"),
        ("+callbacks.c._target_=lightning.pytorch.callbacks.LearningRateMonitor", "that has no logger"),
        (
            f"+callbacks.c={{{EARLY}: val/score, stopping_threshold: 40}}",
            "points, and val/score is a share.* 0.4",
        ),
        (f"+callbacks.c={{{EARLY}: val/score, min_delta: 1}}", "min_delta=1 is in points"),
        ("+callbacks.selection.module=query", "callbacks.selection.module is what module= says"),
        ("+callbacks.selection.layers=first:1", "callbacks.selection.layers is what layers= says"),
        (f"+callbacks.c={{{EARLY}: val_loss}}", "val_loss.*is not available.*`val/score`"),
        (f"+callbacks={{c: {{{EARLY}: val/score}}, d: {{{EARLY}: val/score}}}}", "more than one stateful callback"),
        ("+callbacks.c._target_=test_refusals.TakesNothing", "TakesNothing.on_train_batch_end.. takes 1 positional"),
    ],
)
def test_what_lightning_refuses_is_a_sentence(train: Train, override: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        train(*SMALL, override)
    assert "\n" not in str(caught.value)


def own(**trainer: Any) -> None:
    """Fit with a Trainer of one's own, as docs/python.md shows."""
    source = SyntheticSource(TASKS["rte"], {"train": 32, "validation": 32})
    classifier = GlueClassifier(tiny("bert"), TASKS["rte"], Optimisation(1e-3, 1e-3))
    data = GlueDataModule(source, synthetic_tokenizer(), batch_size=8)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "accelerator": "cpu"}
    pl.Trainer(**quiet, **trainer).fit(classifier, datamodule=data)


def test_an_own_trainer_that_knows_no_number_of_steps_is_told_so() -> None:
    with pytest.raises(ConfigError, match="this Trainer has none: type Trainer\\(max_epochs=3\\) or max_steps"):
        own(max_time="00:00:01:00")


def test_an_own_trainer_that_overfits_batches_is_told_so() -> None:
    with pytest.raises(ConfigError, match=r"Trainer\(overfit_batches=…\) would score the rows that it trains on"):
        own(max_epochs=1, overfit_batches=2)


@pytest.mark.filterwarnings("ignore")
def test_an_own_trainer_of_two_processes_is_told_that_each_would_score_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pl.Trainer, "world_size", 2)
    with pytest.raises(ConfigError, match="2 processes would have a part each"):
        own(max_epochs=1)


def test_its_exit_code_is_that_of_a_mistake(type_it: TypeIt, tmp_path: Path) -> None:
    typed = type_it(*TINY, *SMALL, "trainer.devices=[0]", f"runs_dir={tmp_path}")
    assert typed.code == 2
    assert typed.err.count("\n") == 1


def test_a_mistake_inside_a_callback_of_the_reader_keeps_its_traceback(train: Train) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        train(*SMALL, "+callbacks.c._target_=test_refusals.Fails")


def test_an_operation_that_determinism_forbids_names_the_way_out() -> None:
    forbidden = (
        "put_ does not have a deterministic implementation, but you set 'torch.use_deterministic_algorithms(True)'."
    )
    told = "put_ has no deterministic implementation here.* trainer.deterministic=warn"
    with pytest.raises(ConfigError, match=told), explain_refusals():
        raise RuntimeError(forbidden)


@pytest.fixture
def _deterministic_no_longer() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_deterministic_no_longer")
def test_keys_that_leave_the_result_alone_work_together(train: Train) -> None:
    plain = train(*SMALL)
    run = train(
        *SMALL,
        *("trainer.profiler=simple", "trainer.detect_anomaly=true", "trainer.deterministic=warn"),
        *("trainer.inference_mode=false", "trainer.benchmark=false", "trainer.num_sanity_val_steps=-1"),
        *("trainer.log_every_n_steps=0", "trainer.min_epochs=1", "trainer.min_steps=1", "trainer.max_time=01:00:00:00"),
        *("trainer.limit_train_batches=1.0", "trainer.limit_val_batches=99", "trainer.val_check_interval=2"),
        *("trainer.overfit_batches=0", "trainer.fast_dev_run=null", "trainer.compile=null", "trainer.devices='1'"),
    )
    assert run.path != plain.path
    assert run.record["history"] == plain.record["history"]
    assert "run_training_batch" in next(run.path.glob("*-profile.txt")).read_text()


def test_what_a_callback_of_the_reader_says_is_heard(train: Train, caplog: pytest.LogCaptureFixture) -> None:
    lightning = logging.getLogger("lightning.pytorch")  # which hands nothing on to the root
    lightning.addHandler(caplog.handler)
    try:
        train(*SMALL, "optim.head=trained", f"+callbacks.c={{{EARLY}: val/score, verbose: true}}")
    finally:
        lightning.removeHandler(caplog.handler)
    assert "Metric val/score improved" in caplog.text
