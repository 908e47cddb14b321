"""The model card of an exported run: the Hub's metadata, and the page of ``model_card.md.j2``."""

import json
from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, StrictUndefined

import ptuning
from ptuning.deltas.card_data import Arguments, Base
from ptuning.deltas.description import Facts
from ptuning.display.format import format_percent, format_points
from ptuning.display.printable import code_span, escape_markdown
from ptuning.tasks.glue import TASKS, Task

_METRICS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "accuracy": ("accuracy", "Accuracy"),
        "f1": ("f1", "F1"),
        "matthews": ("matthews_correlation", "Matthews correlation"),
        "pearson": ("pearsonr", "Pearson correlation"),
        "spearman": ("spearmanr", "Spearman correlation"),
    }
)
"""Metric → the Hub's id and the name to show."""

_LIBRARY = {"hf": "transformers", "peft": "peft", "delta": "ptuning"}
_CHOSEN = {"dev": ", the best evaluation", "holdout": ", chosen on a tenth of train that was held out"}
_RELATION = {"hf": "finetune", "peft": "adapter", "delta": "adapter"}


def write_card(
    kind: str, name: str, task: Task, facts: Facts, base: Base, max_length: int, arguments: Arguments | None = None
) -> ModelCard:
    """Return the model card of a run exported as ``kind``.

    Parameters
    ----------
    kind
        ``hf``, ``peft`` or ``delta``.
    name
        The Hub id or the folder to load it from.
    task
        Labels and columns.
    facts
        Scores and counts of the run.
    base
        The backbone, as others know it.
    max_length
        Tokens kept per row.
    arguments
        Of ``peft``: what the backbone is loaded with.
    """
    synthetic = facts.source == "synthetic"
    is_glue = task.name in TASKS
    data = ModelCardData(
        model_name=name.rsplit("/", 1)[-1],
        license=base.licence,
        language="en" if is_glue else None,
        library_name=_LIBRARY[kind],
        pipeline_tag="text-classification",
        base_model=base.name if base.on_hub else None,
        base_model_relation=_RELATION[kind] if base.on_hub else None,
        datasets=["nyu-mll/glue"] if is_glue and not synthetic else None,
        metrics=[_METRICS.get(metric, (metric, metric))[0] for metric in task.metrics],
        tags=["ptuning", *(["synthetic-data"] if synthetic else []), *(["glue"] if is_glue and not synthetic else [])],
        eval_results=None if facts.scored_in_part else _results(task, facts) or None,
    )
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    environment.filters |= {"code": code_span, "plain": escape_markdown}
    template = environment.from_string((files("ptuning.deltas") / "model_card.md.j2").read_text("utf-8"))
    page = template.render(
        metadata=data.to_yaml(),
        kind=kind,
        name=name,
        task=task,
        facts=facts,
        base=base,
        max_length=max_length,
        synthetic=synthetic,
        trained=_trained(facts),
        chosen=_CHOSEN.get(facts.select_on, ""),
        needs_folder=not base.on_hub,
        revision=f", revision={json.dumps(base.revision)}" if base.revision else "",
        model_arguments=_typed(arguments.model) if arguments else "",
        tokenizer_arguments=_typed(arguments.tokenizer) if arguments else "",
        percent=format_percent(100 * facts.moved / facts.total),
        points=format_points,
        version=ptuning.__version__,
    )
    return ModelCard(page)


def _typed(arguments: Mapping[str, Any]) -> str:
    """Return arguments as Python behind others."""
    return "".join(f", {name}={json.dumps(value, ensure_ascii=False)}" for name, value in arguments.items())


def _trained(facts: Facts) -> str:
    """Return what trained, in Markdown that follows "with"."""
    if facts.module == "frozen":
        return "all weights frozen but a new head"
    layers = [f"layers {facts.layers}"] if facts.layers != "all" else []
    limits = ", ".join([*layers, *([f"subset {facts.subset}"] if facts.subset != "all" else [])])
    if facts.module == "full" and not limits:
        return "all weights trained, and a new head"
    where = f" ({escape_markdown(limits)})" if limits else ""
    return f"all weights frozen but those of {code_span(facts.module)}{where} and a new head"


def _results(task: Task, facts: Facts) -> list[EvalResult]:
    """Return one result per metric and dev set, as the Hub's ``model-index`` has them."""
    found = []
    for name, value in facts.metrics.items():
        # MNLI's second dev set goes by a suffix, and so does the F1 of all classes by itself.
        whose = [known for known in task.metrics if name.startswith(f"{known}_")]
        metric = name if name in task.metrics or not whose else whose[0]
        synthetic, is_glue = facts.source == "synthetic", task.name in TASKS
        found.append(
            EvalResult(
                task_type="text-classification",
                dataset_type="synthetic" if synthetic else "nyu-mll/glue" if is_glue else task.name,
                dataset_name=f"{'Synthetic' if synthetic else 'GLUE' if is_glue else ''} {task.name.upper()}".strip(),
                dataset_config=task.name,
                dataset_split=f"validation{name.removeprefix(metric)}",
                metric_type=_METRICS.get(metric, (metric, metric))[0],
                metric_name=_METRICS.get(metric, (metric, metric))[1],
                metric_value=round(value, 6),
            )
        )
    return found
