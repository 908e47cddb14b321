"""The table of a model's modules: what ``ptuning modules`` prints."""

from rich.table import Table
from torch import nn

from ptuning.numbers import format_percent
from ptuning.selection import GROUPS, count_modules, select


def modules_table(model: nn.Module) -> Table:
    """Return modules × layers with parameters per layer, in all layers, and in percent of the whole model.

    Layers of equal size share a column entry: a module has the same number of weights in every block of the models
    that ptuning knows, and where it has not, the range is shown.
    """
    counts = count_modules(model)
    total = select(model, "frozen").total_parameters
    table = Table(title=f"{type(model).__name__}, {total:,} parameters", title_justify="left", box=None, pad_edge=False)
    table.add_column("module")
    table.add_column("layers", justify="right")
    for column in ("in one layer", "in all", "percent"):
        table.add_column(column, justify="right")
    blocks = sorted({layer for per_layer in counts.values() for layer in per_layer if layer is not None})
    for name, per_layer in counts.items():
        inside = sorted({count for layer, count in per_layer.items() if layer is not None})
        _row(table, name, blocks if inside else [], inside, sum(per_layer.values()), total)
    table.add_section()
    for name in (*GROUPS, "bias", "full"):
        selection = select(model, name)
        layered = name != "frozen"
        inside = sorted({select(model, name, layer).trainable_parameters for layer in blocks}) if layered else []
        _row(table, name, blocks if layered else [], inside, selection.trainable_parameters, total)
    head = select(model, "frozen").head_parameters
    if head:
        table.add_row("head (always trains)", "", "", f"{head:,}", format_percent(100 * head / total))
    return table


def _row(table: Table, name: str, blocks: list[int], inside: list[int], count: int, total: int) -> None:
    layers = f"{blocks[0]}-{blocks[-1]}" if blocks else "none"
    one = " to ".join(f"{number:,}" for number in dict.fromkeys((inside[0], inside[-1]))) if inside else ""
    table.add_row(name, layers, one, f"{count:,}", format_percent(100 * count / total))
