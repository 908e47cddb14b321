"""The paper's three claims, checked on a folder of runs: numbers, verdicts, and the rules behind them.

The paper is AkbarTajari, Rajaee & Pilehvar, "An Empirical Study on the Transferability of Transformer Modules in
Parameter-efficient Fine-tuning" (EMNLP 2022). Its claims are summarised in our words.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from ptuning.display.printable import escape_markdown
from ptuning.results.between_modules import FEWEST_RATES, between_modules
from ptuning.results.claim_rules import FAILS, HOLDS, Finding, every_module, fewest, magnitudes, one_layer, per_place
from ptuning.results.collect import CELL
from ptuning.results.comparisons import Comparer
from ptuning.results.rank_correlation import FEWEST
from ptuning.results.statistics import NOT_ENOUGH
from ptuning.results.text_table import DAGGER, TextTable, markdown_rows
from ptuning.selection.names import MODULES_OF_BLOCK

_PAPERS_PERCENT = "0.003"


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, with the verdicts of these runs.

    Attributes
    ----------
    slug, title
        For anchors and headings.
    paper
        The paper's claim, in our words.
    number
        A sentence on the number that the claim names, else empty.
    rule
        How findings become verdicts.
    verdicts
        (backbone, verdict over its findings that count).
    table
        The findings.
    """

    slug: str
    title: str
    paper: str
    number: str
    rule: str
    verdicts: tuple[tuple[str, str], ...]
    table: TextTable

    def _repr_markdown_(self) -> str:
        """Return the claim as Markdown, for notebooks and pages."""
        number = f"Its number: {self.number}\n\n" if self.number else ""
        verdicts = "".join(f"- **{escape_markdown(backbone)}: {verdict}**\n" for backbone, verdict in self.verdicts)
        found = markdown_rows(self.table) if self.table.rows else "There is no such run."
        return f"## {self.title}\n\nThe paper: {self.paper}\n\n{number}Rule: {self.rule}\n\n{verdicts}\n{found}\n\n"


def check_claims(
    comparer: Comparer, summary: pd.DataFrame, comparisons: pd.DataFrame, count: tuple[int, int] | None = None
) -> list[Claim]:
    """Return the paper's three claims, checked on a folder of runs, and the question beside the third.

    Parameters
    ----------
    comparer
        Compares cells; its margin is the claims' margin.
    summary
        ``summarise(...)``.
    comparisons
        ``against_full(...)`` of that summary.
    count
        The selection's own count for the paper's percentage: weights in the LayerNorms of one block of BERT-base, and
        in the whole model.
    """
    whole = summary[summary["part"] == ""]  # what saw a part of its data is no evidence
    cells = comparisons.merge(
        whole[[*CELL, "trainable_parameters", "trainable_percent", "percent_of_full", "backbone_id"]], on=list(CELL)
    )
    points = 100 * comparer.margin
    margin = f"{points:g} {'point' if points == 1 else 'points'}"
    within = f"within {margin} of full fine-tuning, or above it"
    return [
        _claim(
            1,
            "Every module, tuned alone, comes near full fine-tuning",
            "Each module of a transformer block can be tuned alone, with all else frozen, and reach a performance "
            "comparable with full fine-tuning.",
            "",
            f"It holds where every module of the block ({', '.join(MODULES_OF_BLOCK[:-1])}; or query_key_value in the "
            f"place of the first three) is surely {within}, in all layers. It does not hold where one of them, or a "
            f"group of them, is surely worse by more than {margin}.",
            per_place(cells, every_module),
            summary,
        ),
        _claim(
            2,
            "LayerNorms do it with the fewest weights",
            "LayerNorms transfer best for their few weights: in the analysis by layer, the LayerNorms of a single "
            f"layer, {_PAPERS_PERCENT} % of all weights, perform acceptably on several tasks.",
            _number(count),
            "All layers: it holds where LayerNorms (both, or one of the two) are surely "
            f"{within}, no other module with fewer weights is, and the head alone is surely worse by more. It does not "
            "hold where all LayerNorms are surely worse, a smaller module does as well, or the head alone does. One "
            f"layer: it holds where the LayerNorms of at least one single layer are surely {within}, and the head "
            "alone is surely worse by more; it does not hold where those of each layer are surely worse, or the head "
            "alone does as well. The paper does not say what is acceptable; this is our reading, and the option "
            "--margin asks a weaker one.",
            [*per_place(cells, fewest), *per_place(cells, one_layer)],
            summary,
        ),
        _claim(
            3,
            "The reason is their high-magnitude weights",
            "LayerNorms owe their performance to weights of high magnitude, compared with those of other modules. (How "
            "large the weights are is a question to the pretrained model: the command ptuning weights.)",
            "",
            "Exploratory. Asked of runs in which equally many random weights of each module of the block were trained "
            f"(subset=random:N subset_scope=selection), of {FEWEST} modules or more, each at its best of the learning "
            f"rates that all of them tried, {FEWEST_RATES} or more. The modules' mean |w| is held against their mean "
            "score over the seeds that all have (recovery orders them alike) by Spearman's rank correlation. It holds "
            "where the 95 % interval over modules (Fisher's z) lies above 0, and does not hold where it lies below; "
            "where no module is surely better than the head alone, it is not asked.",
            between_modules(comparer, whole),
            summary,
        ),
        _claim(
            3,
            "Large against small weights inside a module",
            "nothing on this. Where high magnitude is the reason, the largest weights of a module should do more than "
            "as many small ones, which is our reading.",
            "",
            "Asked of runs in which equally many weights of one module were trained, chosen by their pretrained "
            f"magnitude: it holds where the bottom ones and random ones are surely worse than the top ones by more "
            f"than {margin}. It does not hold where either is surely within {margin} of the top ones, or above them, "
            "provided that one of the three is surely better than the head alone: where none is, it cannot matter "
            "which weights were trained. p-values are corrected by Holm over the comparisons of one backbone and task, "
            "and over those with the head alone.",
            magnitudes(comparer, whole),
            summary,
            inside=True,
        ),
    ]


def claims_markdown(claims: Sequence[Claim]) -> str:
    """Return the claims as one Markdown page."""
    return (
        "\n".join(["# The paper's claims, asked of these runs\n", *map(Claim._repr_markdown_, claims)])
        + _CAPTION
        + "\n"
    )


_CAPTION = (
    f"Differences are in points (score × 100). {DAGGER}: synthetic data or random weights, which are no evidence for "
    "or against a claim; the verdict over a backbone leaves them out. Verdicts are those on this dev set. Runs on a "
    "part of their data are not asked. A backbone's verdict is: does not hold, if one finding says so; holds, if all "
    "do; else not enough runs."
)


def _claim(
    number: int,
    title: str,
    paper: str,
    exact: str,
    rule: str,
    findings: Iterable[Finding],
    summary: pd.DataFrame,
    inside: bool = False,
) -> Claim:
    """Return a claim with its verdicts; ``inside`` is for the question beside it, inside modules."""
    findings = sorted(findings, key=lambda finding: finding.backbone)
    verdicts = []
    for backbone in dict.fromkeys(summary["backbone"]):
        own = [finding.verdict for finding in findings if finding.backbone == backbone and finding.counts]
        failed = FAILS if FAILS in own else NOT_ENOUGH
        verdicts.append((backbone, HOLDS if own and set(own) == {HOLDS} else failed))
    rows = tuple(
        (f.backbone, f.place, f.asked, f.found, f.verdict if f.counts else f"{f.verdict} {DAGGER}", f.why)
        for f in findings
    )
    head = ("backbone", "task", "asked of", "found", "verdict", "because")
    table = TextTable(f"claim-{number}{'-inside' if inside else ''}", title, _CAPTION, head, "llllll", rows)
    shown = f"{'Beside claim' if inside else 'Claim'} {number}. {title}"
    return Claim(table.slug, shown, paper, exact, rule, tuple(verdicts), table)


def _number(count: tuple[int, int] | None) -> str:
    if count is None:
        return "not counted in this report."
    weights, total = count
    percent = 100 * weights / total
    rounded = f"{percent:.3f}"
    agrees = "agrees" if rounded == _PAPERS_PERCENT else "does not agree"
    return (
        f"the LayerNorms of one block of BERT-base are {weights:,} of {total:,} weights (with a two-label "
        f"head), counted by the selection itself: {percent:.5f} %, rounded {rounded} %, which {agrees} with the "
        f"paper's {_PAPERS_PERCENT} %."
    )
