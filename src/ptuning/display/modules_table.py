"""The table of a model's modules: what ``ptuning modules`` prints."""

from collections.abc import Sequence

from rich.table import Table
from torch import nn

from ptuning.display.format import format_percent
from ptuning.selection.architectures import architecture_of
from ptuning.selection.parameters import count_layers, count_modules, list_modules
from ptuning.selection.select import choose_parameters


def modules_table(model: nn.Module) -> Table:
    """Return modules × layers with parameters per layer, in all layers, and in percent of the whole model.

    Layers of equal size share a column entry: a module has the same number of weights in every block of the models
    that ptuning knows, and where it has not, the range is shown.
    """
    counts = count_modules(model)
    total = choose_parameters(model, "frozen").total_parameters
    table = Table(title=f"{type(model).__name__}, {total:,} parameters", title_justify="left", box=None, pad_edge=False)
    table.add_column("module")
    table.add_column("layers", justify="right")
    for column in ("in one layer", "in all", "percent"):
        table.add_column(column, justify="right")
    shared = f"shared by {count_layers(model)}" if architecture_of(model).shares_layers else ""
    in_block = architecture_of(model).in_block
    blocks = sorted({layer for per_layer in counts.values() for layer in per_layer if layer is not None})
    for name, per_layer in counts.items():
        layers = sorted(layer for layer in per_layer if layer is not None)
        inside = sorted({per_layer[layer] for layer in layers})
        place = _span(layers) or (shared if name in in_block else "none")
        _row(table, name, place, inside, sum(per_layer.values()), total)
    table.add_section()
    for name in [name for name in list_modules(model) if name not in counts]:
        selection = choose_parameters(model, name)
        layers = blocks if name != "frozen" else []
        inside = sorted({choose_parameters(model, name, layer).trainable_parameters for layer in layers})
        place = _span(layers) or (shared if selection.names else "none")
        _row(table, name, place, inside, selection.trainable_parameters, total)
    head = choose_parameters(model, "frozen").head_parameters
    if head:
        table.add_row("head (always trains)", "", "", f"{head:,}", format_percent(100 * head / total))
    return table


def _span(layers: Sequence[int]) -> str:
    return "-".join(str(layer) for layer in dict.fromkeys((layers[0], layers[-1]))) if layers else ""


def _row(table: Table, name: str, layers: str, inside: Sequence[int], count: int, total: int) -> None:
    one = " to ".join(f"{number:,}" for number in dict.fromkeys((inside[0], inside[-1]))) if inside else ""
    table.add_row(name, layers, one, f"{count:,}", format_percent(100 * count / total))
