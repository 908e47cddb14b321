"""Many deltas over one backbone: switched by exchanging pointers, or a delta per row of a batch."""

from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ptuning.backbones.load import input_names, label_settings, load_model, load_tokenizer
from ptuning.backbones.pooling import set_pooling
from ptuning.deltas.format import check_fit, open_delta, value_type, whole_values
from ptuning.deltas.loading import check_backbone, delta_folder, find_delta_backbone
from ptuning.deltas.mixed_batch import Mixture, check_mixable
from ptuning.errors import RunError, nearest
from ptuning.selection.parameters import split_head
from ptuning.tasks.glue import Task


class DeltaStack:
    """Deltas over one backbone, each with its own head.

    The backbone is in memory once; a delta adds its own few values. :meth:`use` switches in microseconds (two deltas
    of BERT-base's LayerNorms: 13 µs on a CPU core, benchmarks/README.md), because only pointers change hands.

    Not for several threads at once: a call changes the model while it runs.

    Parameters
    ----------
    backbone
        A folder, a Hub id, ``packaged:minilm``, or ``random:NAME`` as the deltas have it.
    deltas
        Name → run folder, delta folder or Hub id of a pushed delta.

    Attributes
    ----------
    model
        The Hugging Face model, with the values of the delta in use.
    tokenizer
        The backbone's; ``truncation=True`` cuts where the delta in use did.
    tasks
        Name → the task that the delta answers.
    current
        Name of the delta in use; the first one at the start.

    Raises
    ------
    RunError
        If a delta was trained on another backbone, or there are none.

    Examples
    --------
    >>> stack = ptuning.load(backbone, deltas={"rte": run1, "mrpc": run2})
    >>> batch = stack.tokenizer(["A dog runs."] * 3, ["An animal moves."] * 3, return_tensors="pt")
    >>> stack.use("mrpc")(**batch).logits.shape
    torch.Size([3, 2])
    >>> [logits.shape[0] for logits in stack(batch, tasks=["rte", "mrpc", "rte"])]  # a row each, in one forward pass
    [2, 2, 2]
    """

    def __init__(self, backbone: str, deltas: Mapping[str, str | Path]) -> None:
        if not deltas:
            raise RunError('deltas={} is empty: name at least one, deltas={"rte": "runs/…"}.')
        opened = {name: open_delta(delta_folder(run)) for name, run in deltas.items()}
        for name, delta in opened.items():
            if (kind := value_type(delta.shapes)) != torch.float32:
                raise RunError(
                    f"The delta '{name}' was trained in {kind}, and a stack computes in fp32. Load it alone: "
                    "ptuning.load(run)."
                )
        self.tasks: dict[str, Task] = {name: delta.description.as_task() for name, delta in opened.items()}
        first = next(iter(opened))
        ref = find_delta_backbone(opened[first].description, backbone)
        self.model: Any = load_model(ref, self.tasks[first], seed=0).eval().requires_grad_(False)
        self.tokenizer = load_tokenizer(ref)
        for name, delta in opened.items():
            check_backbone(self.model, self.tokenizer, ref, delta.description, str(deltas[name]))
            check_fit(delta, self.model, self.tasks[name], f"The delta '{name}'")
        self._inputs = input_names(self.model)
        self._head = set(split_head(self.model)[0])
        self._pristine = dict(self.model.named_parameters())
        self._values = {
            name: {
                parameter: nn.Parameter(value, requires_grad=False)
                for parameter, value in whole_values(delta.read(), self._pristine).items()
            }
            for name, delta in opened.items()
        }
        self._slots = _slots(self.model, {parameter for values in self._values.values() for parameter in values})
        self._switches = {
            name: [
                (parameters, key, values.get(parameter, self._pristine[parameter]))
                for parameter, slots in self._slots.items()
                for parameters, key in slots
            ]
            for name, values in self._values.items()
        }
        self._poolings = {name: delta.description.pooling for name, delta in opened.items()}
        self._max_lengths = {name: delta.description.max_length for name, delta in opened.items()}
        self._configs = {name: self._config(task) for name, task in self.tasks.items()}
        self.use(first)

    def use(self, name: str) -> Any:
        """Return the model with the values of the delta ``name``; the tokenizer truncates as it did."""
        self._check(name)
        for parameters, key, value in self._switches[name]:
            parameters[key] = value
        set_pooling(self.model, self._poolings[name])
        self.model.config, self.model.num_labels = self._configs[name], self.tasks[name].num_outputs
        self.tokenizer.model_max_length = self._max_lengths[name]
        self.current = name
        return self.model

    def to(self, device: str | torch.device) -> "DeltaStack":
        """Return the stack, after moving the backbone and every delta to a device."""
        self.model.to(device)  # moves what the model holds, in place
        for values in (self._pristine, *self._values.values()):
            for parameter in values.values():
                parameter.data = parameter.data.to(device)
        return self

    @torch.inference_mode()
    def __call__(self, batch: Mapping[str, Tensor], tasks: Sequence[str] | None = None) -> Tensor | list[Tensor]:
        """Return logits.

        Parameters
        ----------
        batch
            ``input_ids`` [rows, tokens] and what else the model takes, as the tokenizer gives it.
        tasks
            Name of a delta per row: they share one forward pass, in which each row meets its own delta and head.
            Without it the delta in use answers all rows.

        Returns
        -------
        torch.Tensor or list of torch.Tensor
            [rows, outputs]; with ``tasks`` a list of [outputs], because the deltas' heads differ in width.

        Raises
        ------
        RunError
            If a delta has more than biases and LayerNorm weights, so that rows cannot differ in it. If the heads of
            some read the mean and of others `[CLS]`.
        """
        inputs = {name: batch[name] for name in self._inputs if name in batch}
        if tasks is None:
            logits: Tensor = self.model(**inputs).logits
            return logits
        rows = len(inputs["input_ids"])
        if len(tasks) != rows:
            raise RunError(f"tasks= names {len(tasks)} deltas for {rows} rows: one name per row.")
        names = tuple(dict.fromkeys(tasks))
        for name in names:
            self._check(name)
            check_mixable(self.model, name, self._values[name], self._head)
        if len(poolings := {self._poolings[name] for name in names}) > 1:
            raise RunError(
                f"The heads of {' and '.join(names)} read different things (pooling=cls and pooling=mean), so that "
                "they cannot share a forward pass: ask for one kind at a time."
            )
        which = torch.tensor([names.index(name) for name in tasks], device=inputs["input_ids"].device)
        differing = {parameter for name in names for parameter in self._values[name]}
        try:
            set_pooling(self.model, poolings.pop())
            with Mixture(self.model, [{**self._pristine, **self._values[name]} for name in names], which, differing):
                logits = self.model(**inputs).logits
        finally:
            set_pooling(self.model, self._poolings[self.current])
        return [row[: self.tasks[name].num_outputs] for row, name in zip(logits, tasks, strict=True)]

    def _check(self, name: str) -> None:
        if name not in self.tasks:
            raise RunError(
                f"There is no delta '{name}' here.{nearest(name, self.tasks)} Here: {', '.join(self.tasks)}."
            )

    def _config(self, task: Task) -> Any:
        config = copy(self.model.config)
        for name, value in label_settings(task).items():
            setattr(config, name, value)
        return config


def _slots(model: nn.Module, names: set[str]) -> dict[str, list[tuple[dict[str, Any], str]]]:
    """Return parameter name → (module's parameters, key) of each module that holds it; a tied one has several."""
    holders: dict[int, list[tuple[dict[str, Any], str]]] = {}
    for module in model.modules():
        for key, parameter in module._parameters.items():
            if parameter is not None:
                holders.setdefault(id(parameter), []).append((module._parameters, key))
    return {name: holders[id(parameter)] for name, parameter in model.named_parameters() if name in names}
