"""What benchmarks/peers.py prints: medians, ratios with their spread, the machine, and where the sides differ."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

from sides import Figures

COMMON = (
    "The same on all sides: cross entropy over batches drawn at random, the short last batch kept; dropout in "
    "every place that the pretrained model has it, frozen parts included; AdamW, weight decay 0.01 on matrices "
    "alone; gradients clipped at norm 1 over all that moves; one learning rate for head and module, linear warm-"
    "up over 6 % of the steps and linear decay; a head drawn with standard deviation 0.02. Draws of head, order "
    "and masks are each side's own. A score is that of the best evaluation."
)
DIFFERENCES = {
    "ours": (
        "warm-up over round(6 %) = w steps with (n + 1)/(w + 1) of the rate in step n from 0. On a CPU a batch is "
        "computed in pieces of like length, one per thread, without padding (the same loss), and dropout rates are "
        "rounded to 1/65536. In training the last block leaves out of other tokens that the head does not read all but "
        "their part in its attention, and with a cached prefix in evaluation too. A cached prefix has no dropout; its "
        "one pass counts as training. Keeps checkpoints, the best weights and predictions."
    ),
    "ours-live": ("as ours, with nothing cached, so with dropout everywhere."),
    "trainer": (
        "warm-up over ceil(6 %) = w steps with n/w of the rate, so that step 0 does not move. Rows are padded to "
        "128, in evaluation too. Keeps the last weights alone."
    ),
    "trainer-grouped": (
        "as trainer, but batches hold rows of like length and are padded to their longest: no random draws. bf16 "
        "autocast where the hardware is fast at it."
    ),
    "lightning": (
        "warm-up over round(6 %) = w steps with n/w of the rate, so that step 0 does not move. Batches are padded "
        "to their longest row. Keeps the last weights alone."
    ),
}


def baseline(found: Mapping[str, Sequence[Figures]]) -> str:
    """Return the side that ratios are to: the first peer, or the first side if there is no peer."""
    return next((side for side in found if not side.startswith("ours")), next(iter(found)))


def spread(ratios: Sequence[float]) -> str:
    """Return the median of the rounds' ratios with the least and the greatest."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def table(found: Mapping[str, Sequence[Figures]]) -> str:
    """Return a Markdown table: medians over rounds, and ratios of each round to the first peer in the same round."""
    base = found[baseline(found)]

    def against(figures: Sequence[Figures], ratio: Callable[[Figures, Figures], float]) -> str:
        return spread([ratio(one, other) for one, other in zip(figures, base, strict=True)])

    def median(figures: Sequence[Figures], value: Callable[[Figures], float]) -> str:
        return f"{statistics.median(map(value, figures)):,.1f}"

    headings = ["side", "precision", "command, s", "training, s", "examples/s", f"examples/s, × {baseline(found)}"]
    headings += ["command, times faster", "peak, MiB", "peak, ×", "MFU", "score by seed"]
    lines = [f"| {' | '.join(headings)} |", f"|{' --- |' * len(headings)}"]
    for side, figures in found.items():
        used = [one.mfu for one in figures if one.mfu is not None]
        cells = [
            side + (", cached" if figures[0].cached else ""),
            figures[0].precision,
            median(figures, lambda one: one.wall),
            median(figures, lambda one: one.train),
            median(figures, lambda one: one.rate),
            against(figures, lambda one, other: one.rate / other.rate),
            against(figures, lambda one, other: other.wall / one.wall),
            median(figures, lambda one: one.peak),
            against(figures, lambda one, other: one.peak / other.peak),
            f"{100 * statistics.median(used):.0f} %" if used else "",
            ", ".join(f"{100 * one.score:.1f}" for one in figures),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def machine(threads: int) -> str:
    """Return one line on the device, the versions and the date."""
    import torch

    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    else:
        cpuinfo = Path("/proc/cpuinfo")
        lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
        device = next((line.split(": ")[1] for line in lines if line.startswith("model name")), "CPU")
    names = ("torch", "transformers", "peft", "accelerate", "lightning")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    return f"{device}, {threads} CPU threads; {versions}; {date.today()}"
