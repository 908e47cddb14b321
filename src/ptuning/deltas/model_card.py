"""The model card of an exported run: the Hub's metadata, and a page that says what moved and how to load it."""

from collections.abc import Mapping
from types import MappingProxyType

from huggingface_hub import EvalResult, ModelCard, ModelCardData

import ptuning
from ptuning.deltas.card_data import Base, Facts
from ptuning.display.format import format_percent
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
"""Our names of metrics → the Hub's id and a name for people."""

_LIBRARY = {"hf": "transformers", "peft": "peft", "delta": "ptuning"}
_RELATION = {"hf": "finetune", "peft": "adapter", "delta": "adapter"}


def write_card(kind: str, name: str, task: Task, facts: Facts, base: Base, max_length: int) -> ModelCard:
    """Return the card.

    Parameters
    ----------
    kind
        ``hf``, ``peft`` or ``delta``.
    name
        What a reader types to load it: a Hub id or a folder.
    task
        Labels and columns.
    facts
        What the run did.
    base
        Its backbone.
    max_length
        Tokens kept per row.
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
        eval_results=_results(task, facts) or None,
    )
    parts = (
        f"# {task.name.upper()} by {facts.module}, layers {facts.layers}",
        _summary(task, facts, base),
        "## How to load it\n\n" + _usage(kind, name, task, base, max_length),
        "## What moved\n\n" + _counts(facts),
        "## Score\n\n" + _scores(facts, synthetic),
        "## Licence\n\n" + _licence(base),
        f"Made with ptuning {ptuning.__version__}"
        + "".join(f", {library} {facts.versions[library]}" for library in ("torch", "transformers") if facts.versions)
        + ".",
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n")


def _results(task: Task, facts: Facts) -> list[EvalResult]:
    """Return one result per metric and dev set, as the Hub's ``model-index`` has them."""
    found = []
    for name, value in facts.metrics.items():
        metric = next(known for known in (*task.metrics, name) if name == known or name.startswith(f"{known}_"))
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


def _summary(task: Task, facts: Facts, base: Base) -> str:
    known = f"[{base.name}](https://huggingface.co/{base.name})" if base.on_hub else f"`{base.name}`"
    kind = "its labels are " + ", ".join(f"`{label}`" for label in task.labels) if task.labels else "it gives a number"
    columns = " and ".join(f"`{column}`" for column in task.text)
    text = (
        f"{known}, fine-tuned on {task.name.upper()} with all weights frozen but those of `{facts.module}` and a new "
        f"head. It reads {columns}; {kind}."
    )
    if facts.source == "synthetic":
        text += (
            "\n\n**The data were synthetic**: made by a small grammar, not GLUE's. The scores below say nothing about "
            "GLUE, and the model is for trying things out."
        )
    return text


def _usage(kind: str, name: str, task: Task, base: Base, max_length: int) -> str:
    pair = len(task.text) > 1
    where = "" if base.on_hub else f"\n\n`{base.name}` stands for the folder that has the backbone on your machine."
    if kind == "hf":
        text = '{"text": "One text.", "text_pair": "The other."}' if pair else '"A text."'
        call = f"classify({text}, truncation=True)"
        code = (
            f'from transformers import pipeline\n\nclassify = pipeline("text-classification", "{name}")\nprint({call})'
        )
        return f"```python\n{code}\n```\n\n`truncation=True` keeps {max_length} tokens, as in training."
    if kind == "delta":
        other = "" if base.on_hub or base.name.startswith("random:") else f', backbone="{base.name}"'
        code = f'import ptuning\n\nmodel, tokenizer = ptuning.load("{name}"{other})'
        command = f"Or `ptuning predict {name} --input texts.csv`. {max_length} tokens per row."
        return f"```python\n{code}\n```\n\n{command}{where}"
    labels = list(task.labels) or ["score"]
    revision = f', revision="{base.revision}"' if base.revision else ""
    code = (
        "from peft import PeftModel\n"
        "from transformers import AutoModelForSequenceClassification, AutoTokenizer\n\n"
        f"labels = {labels}\n"
        "backbone = AutoModelForSequenceClassification.from_pretrained(\n"
        f'    "{base.name}"{revision}, num_labels=len(labels), id2label=dict(enumerate(labels)),\n'
        "    ignore_mismatched_sizes=True,\n)\n"
        f'model = PeftModel.from_pretrained(backbone, "{name}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{base.name}"{revision}, model_max_length={max_length})'
    )
    return f"```python\n{code}\n```{where}"


def _counts(facts: Facts) -> str:
    percent = format_percent(100 * facts.moved / facts.total)
    subset = "" if facts.subset == "all" else f", subset {facts.subset}"
    return (
        "| | |\n| --- | --- |\n"
        f"| module | `{facts.module}`, layers {facts.layers}{subset} |\n"
        f"| weights that moved | {facts.moved:,} of {facts.total:,} ({percent} %) |\n"
        f"| weights of the new head | {facts.head:,} |"
    )


def _scores(facts: Facts, synthetic: bool) -> str:
    on = "a synthetic dev set" if synthetic else "the dev set"
    own = f", seed {facts.seed}" if facts.seed is not None else ""
    text = f"**{100 * facts.score:.1f}** on {on}{own}, at epoch {facts.epoch:g}, the best evaluation"
    if facts.metrics:
        text += f" ({', '.join(f'{name} {100 * value:.1f}' for name, value in facts.metrics.items())})"
    text += "."
    if facts.spread:
        mean, deviation = facts.spread
        each = ", ".join(f"{100 * score:.1f} (seed {seed})" for seed, score in facts.scores.items())
        text += (
            f"\n\nThe same training with {len(facts.scores)} seeds: {100 * mean:.1f} ± {100 * deviation:.1f} "
            f"(mean and standard deviation): {each}."
        )
    elif facts.seed is not None:
        text += " One seed: other seeds may differ by points."
    return text


def _licence(base: Base) -> str:
    if base.licence:
        return f"`{base.licence}`, that of the base model, which these weights derive from."
    return "That of the base model, which these weights derive from; its card was not at hand when this was written."
