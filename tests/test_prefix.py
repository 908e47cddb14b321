"""The frozen prefix: where it ends, that nothing is lost by running it once, and how what it gave is kept."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import ptuning
from ptuning.acceleration import accelerate
from ptuning.acceleration.activation_cache import ActivationCache
from ptuning.acceleration.activation_store import DTYPES, ActivationStore, PaddedActivations, Request
from ptuning.acceleration.frozen_prefix import FrozenPrefix
from ptuning.backbones.load import backbone_hash, input_names
from ptuning.config.compose import compose
from ptuning.data.datamodule import GlueDataModule
from ptuning.data.sources import SyntheticSource
from ptuning.deltas.format import read_delta
from ptuning.errors import ConfigError, Interrupted, RunError
from ptuning.selection.architectures import ARCHITECTURES, architecture_of
from ptuning.selection.parameters import count_frozen_blocks, count_layers, list_modules
from ptuning.selection.select import select
from ptuning.system.signals import stop
from ptuning.tasks.glue import TASKS
from ptuning.training.module import GlueClassifier
from ptuning.training.plan import make_plan
from support.families import batch, encoder_variants, families, rows, tiny
from support.learning import counting
from support.running import TINY, Train, run_in

RTE = TASKS["rte"]
MB = 1_000_000


# The model from the prefix on


def states_behind(prefix: FrozenPrefix, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with prefix.computing() as states_of:
        return states_of(inputs)


@encoder_variants
def test_from_every_depth_on_the_logits_are_those_of_the_plain_forward(variant: str) -> None:
    model: Any = tiny(variant).eval()
    inputs, layers = rows(model), count_layers(model)
    with torch.no_grad():
        plain = model(**inputs).logits
        for depth in [layers] if architecture_of(model).shares_layers else range(1, layers + 1):
            prefix = FrozenPrefix(model, depth)
            padding = (inputs["attention_mask"] == 0)[..., None]
            states = states_behind(prefix, inputs).masked_fill(padding, 0.0)
            torch.testing.assert_close(prefix(inputs, states).logits, plain)
            assert prefix.cls_only == (depth == layers)
            if prefix.cls_only:
                first = {name: value[:, :1] for name, value in inputs.items()}
                torch.testing.assert_close(prefix(first, states[:, :1]).logits, plain)
            elif depth > 1:
                earlier = states_behind(FrozenPrefix(model, depth - 1), inputs).masked_fill(padding, 0.0)
                with prefix.computing(depth - 1) as states_of:
                    again = states_of(inputs, earlier).masked_fill(padding, 0.0)
                torch.testing.assert_close(again, states)
        torch.testing.assert_close(model(**inputs).logits, plain)  # and the model is left as it was


def test_nothing_of_the_prefix_is_computed_again() -> None:
    model: Any = tiny("bert")
    inputs, prefix = rows(model), FrozenPrefix(model, 2)
    states = states_behind(prefix, inputs)
    with torch.no_grad():
        for parameter in prefix.parameters():
            parameter.fill_(torch.nan)
    assert prefix(inputs, states).logits.isfinite().all()
    assert not model(**inputs).logits.isfinite().all()


def test_a_head_that_takes_a_mean_needs_every_token() -> None:
    model: Any = tiny("modernbert")
    model.config.classifier_pooling = "mean"
    prefix, inputs = FrozenPrefix(model.eval(), 3), rows(model)
    assert not prefix.cls_only
    torch.testing.assert_close(prefix(inputs, states_behind(prefix, inputs)).logits, model(**inputs).logits)


def test_computing_leaves_dropout_on_where_it_was() -> None:
    model: Any = tiny("bert").train()
    model.classifier.eval()
    inputs, prefix = rows(model), FrozenPrefix(model, 2)
    assert torch.equal(states_behind(prefix, inputs), states_behind(prefix, inputs))
    assert model.bert.encoder.layer[0].training
    assert not model.classifier.training


@families
def test_the_prefix_ends_below_the_lowest_block_that_moves(family: str) -> None:
    model = tiny(family)
    there = set(list_modules(model))

    def depth(*arguments: Any) -> int:
        return count_frozen_blocks(model, select(model, *arguments).names)

    assert depth("frozen") == 3
    for above in {"pooler", "prediction_head", "final_layernorm"} & there:
        assert depth(above) == 3
    assert depth("full") == depth("embeddings") == depth("layernorm") == depth(["embeddings", "ffn"]) == 0
    for below in {"relative_positions"} & there:
        assert depth(below) == 0
    if not ARCHITECTURES[family].shares_layers:
        assert [depth("ffn", layer) for layer in range(3)] == [0, 1, 2]
        assert depth("output_layernorm", "1-2") == 1


# Training


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The loss of every training step of this test."""
    seen: list[float] = []
    real = GlueClassifier.training_step

    def note(self: GlueClassifier, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = real(self, batch, batch_idx)
        seen.append(float(loss.detach()))
        return loss

    monkeypatch.setattr(GlueClassifier, "training_step", note)
    return seen


class NoDropoutBelow(pl.Callback):
    """Dropout off in the first blocks of a BERT, and in its embeddings."""

    def __init__(self, depth: int) -> None:
        self.depth = depth

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
        bert: Any = pl_module.model.bert  # type: ignore[union-attr]
        for module in (bert.embeddings, *bert.encoder.layer[: self.depth]):
            module.eval()


def dev_logits(run: Path) -> Tensor:
    return torch.tensor(pq.read_table(run / "predictions/validation.parquet")["logits"].to_pylist())


DEEP = ("backbone.config.num_hidden_layers=3", "optim.lr=0.01")


@pytest.mark.parametrize(
    ("overrides", "depth", "tokens"),
    [
        (["module=layernorm", "layers=2"], 2, "all"),
        (["module=[query,ffn]", "layers=1-2", "task=stsb", "trainer.accumulate_grad_batches=2"], 1, "all"),
        (["module=pooler"], 3, "first"),
        (["module=frozen", "frozen_prefix_memory_mb=0"], 3, "first"),
    ],
)
def test_a_cached_run_is_a_live_run_without_dropout_in_the_prefix_step_by_step(
    overrides: list[str], depth: int, tokens: str, train: Train, losses: list[float]
) -> None:
    cached = train(*DEEP, *overrides, "frozen_prefix=cache", "frozen_prefix_disk_mb=10")
    about = cached.record["frozen_prefix"]
    assert (about["depth"], about["tokens"], about["dtype"]) == (depth, tokens, "fp32")
    steps = losses.copy()
    losses.clear()
    still = ("+callbacks.still._target_=test_prefix.NoDropoutBelow", f"+callbacks.still.depth={depth}")
    live = train(*DEEP, *overrides, *still)
    assert len(steps) == 12
    assert steps == pytest.approx(losses, rel=1e-4)
    torch.testing.assert_close(dev_logits(cached.path), dev_logits(live.path), rtol=1e-3, atol=1e-4)
    values, expected = read_delta(cached.path)[0], read_delta(live.path)[0]
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(values[name], value, rtol=1e-3, atol=1e-4)
    ordinary = train(*DEEP, *overrides)
    assert losses[12:] != pytest.approx(steps, rel=1e-4), "dropout in the prefix makes no difference"
    assert "frozen_prefix" not in ordinary.record


def test_a_cached_run_goes_on_exactly_predicts_and_gives_its_model_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = [*TINY, *DEEP, "module=ffn", "layers=2", "frozen_prefix=cache"]
    whole = run_in(tmp_path / "whole", *overrides, "predict=[test]")
    assert (whole.path / "predictions/test.parquet").exists()
    real, steps = GlueClassifier.training_step, []

    def stop_once(self: GlueClassifier, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        steps.append(batch_idx)
        if len(steps) == 8:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, batch, batch_idx)

    monkeypatch.setattr(GlueClassifier, "training_step", stop_once)
    with pytest.raises(Interrupted):
        run_in(tmp_path / "stopped", *overrides)
    resumed = run_in(tmp_path / "stopped", *overrides)
    assert len(steps) == 12
    values = read_delta(whole.path)[0]
    assert all(torch.equal(value, values[name]) for name, value in read_delta(resumed.path)[0].items())

    model, tokenizer = ptuning.load(whole.path)
    plan = make_plan(compose(overrides))
    data = GlueDataModule(plan.source, tokenizer)
    logits = dev_logits(whole.path)
    with torch.no_grad():
        for batch in data.eval_dataloader("validation"):
            found = model(**{name: batch[name] for name in input_names(model)}).logits
            torch.testing.assert_close(found, logits[batch["index"]], rtol=1e-4, atol=1e-5)


@encoder_variants
def test_evaluation_behind_a_prefix_leaves_out_what_training_does(variant: str) -> None:
    model: Any = tiny(variant).eval()
    if architecture_of(model).shares_layers:
        return  # its whole encoder is the prefix, or there is none
    prefix = FrozenPrefix(model, 1)
    given = {**batch(model), "prefix": states_behind(prefix, rows(model))}
    located = {architecture_of(model).locate(f"{name}.weight"): m for name, m in model.base_model.named_modules()}
    last = {"output": located["output", count_layers(model) - 1]}
    with counting(last) as met:
        found = accelerate(model, "cpu", prefix).evaluation_logits(given)
    assert met["output"] == 4, "the last block is computed for [CLS] alone"
    torch.testing.assert_close(found, model(**rows(model)).logits, rtol=1e-4, atol=1e-5)


def test_nothing_below_the_blocks_to_cache_is_the_live_run(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    live = train("module=embeddings", "trainer.max_epochs=1")
    same = train("module=embeddings", "trainer.max_epochs=1", "frozen_prefix=cache")
    assert same.path == live.path
    train("module=embeddings", "trainer.max_epochs=1", "frozen_prefix=cache", "force=true")
    assert "live, for want of a block" in capsys.readouterr().out


def test_only_a_cached_prefix_enters_the_recipe() -> None:
    live, cached, half = (
        make_plan(compose([*TINY, "module=frozen", *more])).recipe()
        for more in ([], ["frozen_prefix=cache"], ["frozen_prefix=cache", "frozen_prefix_dtype=bf16"])
    )
    assert "frozen_prefix" not in live
    assert {**live, "frozen_prefix": "fp32"} == cached
    assert {**live, "frozen_prefix": "bf16"} == half
    other = make_plan(compose([*TINY, "module=frozen", "frozen_prefix=cache", "frozen_prefix_memory_mb=1"]))
    assert other.recipe() == cached


class Thaw(pl.Callback):
    """Unfreezes everything after the first epoch."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.requires_grad_(True)


def test_what_is_unfrozen_later_is_an_error(train: Train) -> None:
    with pytest.raises(RunError, match=r"below block 2 was unfrozen during training.*frozen_prefix=live"):
        train("module=frozen", "frozen_prefix=cache", "+callbacks.thaw._target_=test_prefix.Thaw")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("frozen_prefix=cached", "Did you mean 'cache'? Allowed: live, cache"),
        ("frozen_prefix_dtype=fp8", "Allowed: fp32, fp16, bf16"),
        ("frozen_prefix_memory_mb=-1", "at least 0 MB"),
        ("frozen_prefix_disk_mb=0", "at least 1"),
    ],
)
def test_what_cannot_be_is_one_sentence(override: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose([*TINY, override])
    assert told in str(caught.value)


# What is kept


def served(
    folder: Path, depth: int = 2, dtype: str = "fp32", texts: int = 0, max_length: int = 40, **limits: int
) -> tuple[ActivationCache, GlueDataModule]:
    """The tiny BERT's prefix over a small task; every call is a process of its own, as far as memory goes."""
    from ptuning.backbones.synthetic_tokenizer import synthetic_tokenizer

    model = tiny("bert")
    source = SyntheticSource(RTE, {"train": 40, "validation": 16, "test": 8}, seed=texts)
    data = GlueDataModule(source, synthetic_tokenizer(), max_length=max_length)
    cache = ActivationCache(
        FrozenPrefix(model, depth), input_names(model), backbone_hash(model), ActivationStore(folder), dtype, **limits
    )
    cache.serve(data)
    return cache, data


def test_the_same_text_is_computed_once_and_other_text_length_depth_dtype_or_weights_are_not_mixed_up(
    tmp_path: Path,
) -> None:
    cache, data = served(tmp_path)
    assert cache.computed == 56
    _, again = served(tmp_path)
    rows = [3, 0, 11]
    for name in ("train", "validation"):
        one, two = data.served[name][rows], again.served[name][rows]  # type: ignore[index]
        assert torch.equal(one["prefix"], two["prefix"])
    assert served(tmp_path)[0].computed == 0
    for other in ({"texts": 1}, {"max_length": 12}, {"depth": 1}, {"dtype": "fp16"}):
        assert served(tmp_path, **other)[0].computed == 56, other  # type: ignore[arg-type]
    cache.backbone = "other weights"
    cache.computed = 0
    cache.serve(data)
    assert cache.computed == 56


def test_a_changed_tokenizer_never_meets_old_states(tmp_path: Path) -> None:
    from ptuning.backbones.synthetic_tokenizer import synthetic_tokenizer

    cache, _ = served(tmp_path)
    vocabulary = synthetic_tokenizer().get_vocab()
    shuffled = {word: (place if place < 6 else 6 + len(vocabulary) - 1 - place) for word, place in vocabulary.items()}
    from tokenizers.models import WordLevel

    tokenizer = synthetic_tokenizer()
    tokenizer.backend_tokenizer.model = WordLevel(shuffled, unk_token="[UNK]")
    source = SyntheticSource(RTE, {"train": 40, "validation": 16, "test": 8})
    cache.computed = 0
    cache.serve(GlueDataModule(source, tokenizer, max_length=40))
    assert cache.computed == 56


def test_a_deeper_prefix_goes_on_from_a_shallower_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = served(tmp_path / "straight", depth=2)[1]
    served(tmp_path / "steps", depth=1)
    used: list[int] = []
    real = FrozenPrefix.computing

    def note(self: FrozenPrefix, start: int = 0) -> Any:
        used.append(start)
        return real(self, start)

    monkeypatch.setattr(FrozenPrefix, "computing", note)
    stepped = served(tmp_path / "steps", depth=2)[1]
    assert 1 in used
    rows = list(range(16))
    torch.testing.assert_close(
        stepped.served["validation"][rows]["prefix"],  # type: ignore[index]
        straight.served["validation"][rows]["prefix"],  # type: ignore[index]
    )


@pytest.mark.parametrize(("dtype", "near"), [("fp16", 2e-3), ("bf16", 2e-2)])
def test_half_as_many_bytes_are_near(dtype: str, near: float, tmp_path: Path) -> None:
    (whole, exact), (half, rounded) = served(tmp_path), served(tmp_path, dtype=dtype)
    rows = list(range(16))
    one, two = (d.served["validation"][rows]["prefix"] for d in (exact, rounded))  # type: ignore[index]
    assert two.dtype == torch.float32
    assert 0 < (one - two).abs().max() < near * one.abs().max()
    assert half.describe(rounded)["megabytes"] == pytest.approx(whole.describe(exact)["megabytes"] / 2, abs=1e-3)


def test_beyond_the_memory_budget_states_are_mapped_from_their_file(tmp_path: Path) -> None:
    (_, held), (_, mapped) = served(tmp_path), served(tmp_path, memory_mb=0)
    rows = [5, 1]
    for data in (held, mapped):
        data.served["train"][rows]["prefix"].fill_(0)  # type: ignore[index]
    assert torch.equal(held.served["train"][rows]["prefix"], mapped.served["train"][rows]["prefix"])  # type: ignore[index]
    states: Any = mapped.served["train"]
    states.activations.values.fill_(7)  # a private copy of the pages: the file stays as it is
    again: Any = served(tmp_path)[1].served["train"]
    assert torch.equal(again[rows]["prefix"], held.served["train"][rows]["prefix"])  # type: ignore[index]


def test_a_folder_that_cannot_take_them_leaves_them_in_memory_or_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder, limits in ((tmp_path / "file" / "below", {}), (tmp_path / "ok", {"disk_mb": 0})):
        told: list[str] = []
        model = tiny("bert")
        cache, data = served(tmp_path / "elsewhere")
        cache = ActivationCache(
            FrozenPrefix(model, 2), cache.inputs, cache.backbone, ActivationStore(folder), tell=told.append, **limits
        )
        cache.serve(data)
        assert len(told) == 2
        assert "is kept in memory alone" in told[0]
        with pytest.raises(RunError, match=r"cannot take .* MB .*PTUNING_CACHE.*frozen_prefix=live"):
            served(folder, memory_mb=0, **limits)
    assert not list((tmp_path / "ok").glob("*.states"))


def test_a_disk_that_fills_up_meanwhile_leaves_nothing_half_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1})())
    with pytest.raises(RunError, match="No space left on device"):
        served(tmp_path, memory_mb=0)
    assert {path.suffix for path in tmp_path.iterdir()} == {".lock"}


def request(key: str, compute: Callable[[], Any], tokens: int = 4) -> Request:
    return Request(key, (tokens, 3), torch.float32, compute)


def test_the_folder_keeps_to_its_limit_and_what_was_used_last(tmp_path: Path) -> None:
    store = ActivationStore(tmp_path)
    size = request("a", lambda: iter(())).size

    def take(key: str, disk: int) -> list[str]:
        made: list[str] = []

        def compute() -> Iterator[tuple[int, Tensor]]:
            made.append(key)
            yield 0, torch.full((4, 3), float(ord(key)))

        (values,) = store.get([request(key, compute)], memory=0, disk=disk)
        assert torch.equal(values, torch.full((4, 3), float(ord(key))))
        return made

    for number, key in enumerate("abc"):
        assert take(key, 3 * size) == [key]
        os.utime(tmp_path / f"{key}.states", (number, number))
    assert take("a", 3 * size) == []
    assert take("d", 3 * size) == ["d"]
    assert {path.stem for path in tmp_path.glob("*.states")} == {"a", "c", "d"}


def test_memory_keeps_what_fits_and_lets_the_oldest_go(tmp_path: Path) -> None:
    store = ActivationStore(tmp_path)
    size = request("a", lambda: iter(())).size
    one = lambda key: request(key, lambda: iter([(0, torch.zeros(4, 3))]))  # noqa: E731

    def held() -> list[str]:
        for path in tmp_path.glob("*.states"):
            path.unlink()
        return [key for key in "abcde" if store.find(key, (4, 3), torch.float32) is not None]

    for key in "abc":
        store.get([one(key)], memory=2 * size, disk=MB)
    assert held() == ["b", "c"]
    store.get([one("d"), one("b"), one("e")], memory=2 * size, disk=MB)
    assert held() == ["b", "d"]


def test_processes_share_one_file_and_the_second_waits(tmp_path: Path) -> None:
    started, go_on, made = threading.Event(), threading.Event(), []

    def slowly() -> Iterator[tuple[int, Tensor]]:
        made.append("slow")
        started.set()
        yield 0, torch.ones(2, 3)
        assert go_on.wait(20)
        yield 2, torch.ones(2, 3)

    def fast() -> Iterator[tuple[int, Tensor]]:
        made.append("fast")
        yield 0, torch.zeros(4, 3)

    found: list[Tensor] = []

    def take(compute: Callable[[], Any]) -> None:
        found.extend(ActivationStore(tmp_path).get([request("k", compute)], memory=0, disk=MB))

    threads = [threading.Thread(target=take, args=(compute,)) for compute in (slowly, fast)]
    threads[0].start()
    assert started.wait(20)
    threads[1].start()
    threads[1].join(0.3)
    assert not found
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert made == ["slow"]
    assert all(torch.equal(values, torch.ones(4, 3)) for values in found)
    assert len(found) == 2


def test_a_killed_writer_leaves_nothing_that_is_taken_for_whole(tmp_path: Path) -> None:
    def die() -> Iterator[tuple[int, Tensor]]:
        yield 3, torch.ones(1, 3)  # the file has its full length already
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        ActivationStore(tmp_path).get([request("k", die)], memory=0, disk=MB)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert [path.name for path in tmp_path.glob("k.[ps]*")] == ["k.part"]
    store = ActivationStore(tmp_path)
    assert store.find("k", (4, 3), torch.float32) is None
    other = request("other", lambda: iter([(0, torch.zeros(4, 3))]))
    store.get([other], memory=0, disk=MB)
    assert not list(tmp_path.glob("*.part")), "the next writer clears up"
    (values,) = store.get([request("k", lambda: iter([(0, torch.full((4, 3), 2.0))]))], memory=0, disk=MB)
    assert torch.equal(values, torch.full((4, 3), 2.0))


def test_being_asked_to_stop_ends_the_computation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop, "asked", True)
    with pytest.raises(Interrupted, match="begins anew"):
        served(tmp_path)
    assert not list(tmp_path.glob("*.[ps]*"))


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=8), data=st.data())
def test_rows_come_back_padded_in_the_order_asked_for(lengths: list[int], data: st.DataObject) -> None:
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    values = torch.arange(1.0, int(offsets[-1]) * 2 + 1).view(-1, 2).to(data.draw(st.sampled_from([*DTYPES.values()])))
    rows = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=6))
    found = PaddedActivations(values, offsets)[torch.tensor(rows)]
    assert found.shape == (len(rows), max(lengths[row] for row in rows), 2)
    for row, one in zip(rows, found, strict=True):
        assert torch.equal(one[: lengths[row]], values[offsets[row] : offsets[row + 1]].float())
        assert not one[lengths[row] :].any()
