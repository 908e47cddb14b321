"""What makes training faster without changing its mathematics: the room's one door.

:func:`accelerate` returns an :class:`Acceleration`, by which a classifier computes; :func:`none` one that leaves its
model as Hugging Face made it. Outside of an acceleration's methods the model is always as Hugging Face made it.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ptuning.acceleration import kernels
from ptuning.acceleration import native as native  # without this line and its folder torch computes it all
from ptuning.acceleration.attention import attention_in_place
from ptuning.acceleration.cls_only import cls_only_forwards, cls_only_modules
from ptuning.acceleration.dropout import dropout_forwards
from ptuning.acceleration.frozen_casts import FrozenCasts
from ptuning.acceleration.frozen_prefix import FrozenPrefix
from ptuning.acceleration.micro_batches import (
    MicroBatch,
    accumulate_micro_batches,
    cut_into_micro_batches,
    evaluate_micro_batches,
    sparse_embeddings,
    tokens_per_micro_batch,
)
from ptuning.acceleration.packing import PackedBatch, unpadding
from ptuning.acceleration.precision import low_type
from ptuning.acceleration.replaced_forward import Replacement, carrying, replaced_forward
from ptuning.backbones.load import input_names
from ptuning.selection.architectures import known_architecture

__all__ = ["PARTS", "Acceleration", "accelerate", "none"]

Batch = Mapping[str, Tensor]
"""``input_ids``, ``attention_mask``, perhaps ``token_type_ids`` [batch, seq]; ``labels`` [batch]; behind a frozen
prefix ``prefix``, [batch, seq, hidden]."""
Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits [batch, outputs] and labels [batch] → the mean of a loss of each row by itself, all of one weight."""

PARTS = ("dropout", "attention", "packing", "cls_only")
"""What :func:`accelerate` can do without."""


class Acceleration:
    """How a classifier computes: here as Hugging Face made the model, whole batches at a time.

    Parameters
    ----------
    model
        A Hugging Face encoder with a classification head.
    prefix
        What is frozen below everything trainable. Batches bring the hidden states behind it, as ``prefix``.

    Attributes
    ----------
    compiled
        What takes the place of :meth:`logits` in training, if anything
        (:class:`ptuning.acceleration.compile.CompiledForward`).
    """

    def __init__(self, model: nn.Module, prefix: FrozenPrefix | None = None) -> None:
        self.model = model
        self.prefix = prefix
        self.inputs = input_names(model)
        self.compiled: Callable[[dict[str, Tensor]], Tensor] | None = None

    def logits(self, batch: Batch) -> Tensor:
        """Return logits [batch, outputs] in fp32, by the model's own forward."""
        if self.prefix is None:
            return self._compute(batch)
        with replaced_forward(self.prefix.forwards):
            return self._compute(batch)

    def _inputs(self, batch: Batch) -> dict[str, Tensor]:
        return {name: batch[name] for name in self.inputs if name in batch}

    def _compute(self, batch: Batch, **handed_down: Any) -> Tensor:
        inputs = self._inputs(batch)
        if self.prefix:
            output = self.prefix.run(inputs, batch["prefix"], **handed_down)
        else:
            output = self.model(**inputs, **handed_down)
        logits: Tensor = output.logits
        return logits.float()

    def training_loss(self, loss: Loss, batch: Batch, by_rows: bool = True) -> Tensor:
        """Return the loss of a training batch, a scalar whose backward pass gives the gradients.

        ``by_rows`` is false for a loss that is no mean of one of each row by itself, so that parts do not add up.
        """
        if self.compiled:
            return loss(self.compiled(self._inputs(batch)), batch["labels"])
        return loss(self.logits(batch), batch["labels"])

    def evaluation_logits(self, batch: Batch) -> Tensor:
        """Return logits [batch, outputs]: the model's bit for bit, behind a cached prefix to rounding."""
        return self.logits(batch)

    def begin_fit(self, precision: str) -> None:
        """Make ready for training in a precision, by Lightning's name."""

    def end_fit(self) -> None:
        """Put back what training had changed, but for what it trained."""

    def begin_evaluation(self) -> None:
        """Put it back for a time: evaluation is in fp32 where training is mixed."""

    def end_evaluation(self) -> None:
        """Make ready again, as long as training goes on."""


class _Accelerated(Acceleration):
    """What :func:`accelerate` returns."""

    def __init__(
        self, model: Any, device: torch.device | None, prefix: FrozenPrefix | None, without: Collection[str]
    ) -> None:
        super().__init__(model, prefix)
        self._device = device
        self._casts: FrozenCasts | None = None
        self._cudnn_attends = False
        architecture = known_architecture(model)
        known = architecture is not None
        drops = [] if "dropout" in without else dropout_forwards(model)
        behind = [] if "cls_only" in without else cls_only_modules(model)
        self._attends = known and model.config._attn_implementation == "sdpa" and "attention" not in without
        tokenwise = architecture is not None and not architecture.positions_in_blocks
        self._packs = bool(self._attends and behind and tokenwise and "packing" not in without)
        self._whole = cls_only_forwards(behind, packed=False)
        self._in_micro_batches = [*drops, *cls_only_forwards(behind, self._packs)]
        if architecture and self._packs:
            blocks = architecture.blocks(getattr(model, model.base_model_prefix))
            lowest = blocks[prefix.depth if prefix else 0 :][:1]
            self._in_micro_batches += [(block, unpadding(block)) for block in lowest]
        # A family that is not in the table may draw from torch's own generator, which threads would share. And a head
        # alone is no work.
        self.in_threads = known and not (prefix and prefix.cls_only)
        width = getattr(model.config, "hidden_size", 768)  # some models of several parts have one for each part
        self.micro_batch_tokens = tokens_per_micro_batch(int(width))

    @property
    def _on_cpu(self) -> bool:
        return (self._device or next(self.model.parameters()).device).type == "cpu"

    @contextmanager
    def _in_place(self, replacements: Sequence[Replacement]) -> Iterator[None]:
        with ExitStack() as stack:
            if self._attends:
                stack.enter_context(attention_in_place(self.model))
            stack.enter_context(replaced_forward([*replacements, *(self.prefix.forwards if self.prefix else ())]))
            yield

    def training_loss(self, loss: Loss, batch: Batch, by_rows: bool = True) -> Tensor:
        """Return the loss of a training batch.

        A CPU takes it in micro-batches (:mod:`ptuning.acceleration.micro_batches`). A GPU, which is bound by the number
        of its launches at these sizes, takes it whole, and so does what is compiled. With gradient checkpointing the
        model's own forward computes it, as blocks run again in the backward pass, after this; and so does it where
        padding does not end the rows, and for a loss that is not ``by_rows``.
        """
        if any(getattr(module, "gradient_checkpointing", False) for module in self.model.modules()):
            return super().training_loss(loss, batch)
        if self.compiled or not self._on_cpu:
            with self._in_place(self._whole):
                return super().training_loss(loss, batch)
        if not by_rows or (batch["attention_mask"].diff(dim=1) > 0).any():
            return super().training_loss(loss, batch)
        total = len(batch["labels"])

        def share(one: MicroBatch) -> Tensor:
            return loss(self._micro_batch_logits(batch, one), batch["labels"][one.rows]) * (len(one.rows) / total)

        trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        with self._in_place(self._in_micro_batches), sparse_embeddings(self.model):
            return accumulate_micro_batches(share, self._cut(batch), trainable, self.in_threads)

    def evaluation_logits(self, batch: Batch) -> Tensor:
        """Return logits [batch, outputs]: the model's bit for bit, behind a cached prefix to rounding, and faster."""
        if self.prefix is None or self.prefix.cls_only or not self._on_cpu:
            return self.logits(batch)
        with self._in_place(self._in_micro_batches):
            return evaluate_micro_batches(lambda one: self._micro_batch_logits(batch, one), self._cut(batch))

    def _cut(self, batch: Batch) -> list[MicroBatch]:
        lengths = batch["attention_mask"].sum(1)
        return cut_into_micro_batches(lengths, self.micro_batch_tokens, padded=not self._packs)

    def _micro_batch_logits(self, batch: Batch, one: MicroBatch) -> Tensor:
        names = (*self.inputs, *(("prefix",) if self.prefix else ()))
        given = {name: batch[name][one.rows, : one.longest] for name in names if name in batch}
        if not self._packs:
            return self._compute(given)
        packed = PackedBatch.of(given["attention_mask"])
        with carrying(packed=packed):
            return self._compute(given, packed=packed)

    def begin_fit(self, precision: str) -> None:
        """Cast what is frozen once, if it is multiplied in mixed precision; have the kernels of a CPU compiled.

        On a GPU cuDNN's attention takes no part: it plans anew for every shape, and in torch 2.11 it drops other shares
        than asked (pytorch 174245).
        """
        self.end_fit()  # the last one may have ended by an exception
        if self._on_cpu:
            kernels.prepare()  # before threads ask for them
        else:
            self._cudnn_attends = torch.backends.cuda.cudnn_sdp_enabled()
            torch.backends.cuda.enable_cudnn_sdp(False)
        low = low_type(precision)
        self._casts = FrozenCasts(self.model, low) if low else None

    def end_fit(self) -> None:
        """Put the pretrained values back."""
        self.begin_evaluation()
        self._casts = None
        if self._cudnn_attends:
            torch.backends.cuda.enable_cudnn_sdp(True)
            self._cudnn_attends = False

    def begin_evaluation(self) -> None:
        """Put the pretrained values back for a time: evaluation is in fp32 where training is mixed."""
        if self._casts:
            self._casts.give_back()

    def end_evaluation(self) -> None:
        """Cast again, as long as training goes on."""
        if self._casts:
            self._casts.cast()


def accelerate(
    model: nn.Module,
    device: torch.device | str | None = None,
    prefix: FrozenPrefix | None = None,
    without: Collection[str] = (),
) -> Acceleration:
    """Return how a model computes fastest on a device.

    Parameters
    ----------
    model
        A Hugging Face model with a classification head. Of a family that is not in the table of architectures,
        batches are cut and dropout is replaced, and no more; decoders stay as Hugging Face made them, and what
        ``torch.compile`` has compiled as it is.
    device
        Where it trains, by default wherever the model is when it does.
    prefix
        What is frozen below everything trainable.
    without
        Of :data:`PARTS`, what is not to be used, so that its worth can be measured.
    """
    architecture = known_architecture(model)
    config: Any = model.config
    is_unusual = getattr(config, "is_decoder", False) or getattr(config, "chunk_size_feed_forward", 0)
    if is_unusual or (architecture and not architecture.is_accelerated) or _is_compiled(model):
        return none(model, prefix)
    return _Accelerated(model, None if device is None else torch.device(device), prefix, without)


def none(model: nn.Module, prefix: FrozenPrefix | None = None) -> Acceleration:
    """Return an acceleration that leaves a model as Hugging Face made it."""
    return Acceleration(model, prefix)


def _is_compiled(model: nn.Module) -> bool:
    """Return True if a model or a part of it went through ``torch.compile``, which cannot follow replaced forwards."""
    return any(hasattr(one, "_orig_mod") or one._compiled_call_impl is not None for one in model.modules())
