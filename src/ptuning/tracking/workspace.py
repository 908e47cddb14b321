"""A W&B workspace with charts for the runs of a project, made with ``wandb-workspaces``."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptuning.errors import RunError, first_line
from ptuning.system.files import write_json

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Section, Workspace

HEAT_MAP = "ptuning-layers"
"""Name of the heat map among the entity's custom charts."""

HEAT_MAP_SPEC: dict[str, Any] = {
    "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
    "title": "${string:title}",
    "data": {"name": "wandb"},
    "transform": [
        # Of the sweeps' tables of cells: one task, whole tensors, single layers.
        {"filter": "datum['${field:task}'] == '${string:task}' && datum['${field:subset}'] == 'all'"},
        {"filter": "test(/^[0-9]+$/, '' + datum['${field:layers}'])"},
        {"calculate": "toNumber(datum['${field:layers}'])", "as": "layer"},
        {"calculate": "100 * datum['${field:score}']", "as": "points"},
    ],
    "mark": {"type": "rect", "tooltip": True},
    "encoding": {
        "x": {"field": "layer", "type": "ordinal", "title": "layer"},
        "y": {"field": "${field:module}", "type": "nominal", "title": None},
        "color": {
            "field": "points",
            "aggregate": "mean",
            "type": "quantitative",
            "title": "score × 100",
            "scale": {"scheme": "cividis", "zero": False},
        },
    },
}
"""Vega-Lite: W&B has no heat map of its own. A row per module, a column per layer; the same colours as the report's."""

_FIELDS = {"task": "task", "subset": "subset", "layers": "layers", "module": "module", "score": "mean"}
"""What the heat map calls a column → the column of the table ``cells`` that a sweep logs."""


def make_workspace(entity: str, project: str, tasks: Sequence[str], name: str = "ptuning") -> "Workspace":
    """Return a workspace with scores by module, layers, learning curves and cost; nothing is sent.

    Parameters
    ----------
    entity, project
        Where it is to lie.
    tasks
        Tasks that get a heat map over layers.
    name
        What the view is called.

    Raises
    ------
    RunError
        If ``wandb-workspaces`` is not installed.
    """
    try:
        import wandb_workspaces.workspaces as ws
    except ModuleNotFoundError as error:
        raise RunError(
            "The dashboard needs a package that is not installed: pip install 'ptuning[dashboard]'"
        ) from error
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=_sections(entity, tasks),
        runset_settings=ws.RunsetSettings(
            groupby=[ws.Config("task_name"), ws.Config("module_name")],
            order=[ws.Ordering(ws.Summary("score"), ascending=False)],
            pinned_columns=["summary:score", "summary:trainable_percent", "config:layers_name", "summary:status"],
        ),
    )


def describe(workspace: "Workspace") -> dict[str, Any]:
    """Return the JSON values to send for a workspace; ``charts`` are made first."""
    view = workspace._to_model()
    return {
        "entity": view.entity,
        "project": view.project,
        "displayName": view.display_name,
        "type": "project-view",
        "spec": json.loads(view.spec.model_dump_json(by_alias=True, exclude_none=True)),
        "charts": {f"{view.entity}/{HEAT_MAP}": HEAT_MAP_SPEC},
    }


def write(workspace: "Workspace", path: Path) -> None:
    """Write :func:`describe`'s answer as JSON, whole."""
    write_json(path, describe(workspace))


def save(workspace: "Workspace") -> str:
    """Return the view's address, after making the heat map's chart and the view at W&B.

    Raises
    ------
    RunError
        Without a key or a network, or if W&B refuses.
    """
    import wandb

    check_reachable()
    try:
        api = wandb.Api(timeout=30)
        _make_chart(api, workspace.entity)
        workspace.save()
    except Exception as error:  # its client raises kinds of its own, private ones too, for a server that refuses
        raise RunError(f"W&B refused the dashboard ({first_line(error)}). {_WITHOUT}") from error
    return str(workspace.url)


def own_entity() -> str:
    """Return the default entity of the key's owner.

    Raises
    ------
    RunError
        Without a key or a network, or if W&B does not say.
    """
    import wandb

    check_reachable()
    try:
        entity = wandb.Api(timeout=30).default_entity
    except Exception as error:  # as in save
        raise RunError(f"W&B does not say whose project it is ({first_line(error)}): --entity NAME") from error
    if not entity:
        raise RunError("W&B does not say whose project it is: --entity NAME")
    return str(entity)


def check_reachable() -> None:
    """Raise :class:`RunError` if there is no key, no network, or W&B was told to stay offline."""
    from ptuning.tracking.wandb_settings import asked_mode, why_offline

    mode = asked_mode("online")
    if reason := why_offline() if mode in ("auto", "online") else f"WANDB_MODE={mode}":
        raise RunError(f"The dashboard cannot be sent to W&B: {reason}. {_WITHOUT}")


_WITHOUT = "--out FILE writes it as JSON without a network."


def _make_chart(api: Any, entity: str) -> None:
    """Make the heat map, unless the entity has it already."""
    try:
        api.create_custom_chart(
            entity=entity,
            name=HEAT_MAP,
            display_name="ptuning: score by module and layer",
            spec_type="vega2",
            access="private",
            spec=HEAT_MAP_SPEC,
        )
    except Exception as error:  # as in save
        if not any(word in str(error).lower() for word in ("exist", "duplicate", "conflict", "unique")):
            raise


def _sections(entity: str, tasks: Sequence[str]) -> list["Section"]:
    """Return the sections of the workspace: scores, layers, learning curves, cost."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    by_module = {"groupby": wr.Config("module_name"), "groupby_aggfunc": "mean"}
    scores = [
        wr.BarPlot(
            title="Score by task and module", metrics=["score"], groupby_aggfunc="mean", groupby_rangefunc="stderr"
        ),
        wr.BarPlot(
            title="Score by module, mean over tasks", metrics=["score"], groupby_rangefunc="stderr", **by_module
        ),
        wr.ScatterPlot(
            title="Score against trainable weights",
            x=wr.SummaryMetric("trainable_percent"),
            y=wr.SummaryMetric("score"),
            log_x=True,
        ),
    ]
    maps = [
        wr.CustomChart(
            query={"summaryTable": {"tableKey": "cells"}},
            chart_name=f"{entity}/{HEAT_MAP}",
            chart_fields=_FIELDS,
            chart_strings={"task": task, "title": f"Layers: {task}"},
        )
        for task in tasks
    ]
    columns = [
        wr.ParallelCoordinatesPlotColumn(metric=wr.Config("module_name"), display_name="module"),
        wr.ParallelCoordinatesPlotColumn(metric=wr.Config("layers_name"), display_name="layers"),
        wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric("trainable_percent"), display_name="%", log=True),
        wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric("score")),
    ]
    curves = {"Score on dev": "val/score", "Training loss": "train/loss", "Learning rate": "train/lr"}
    costs = {
        "Training examples per second": "train_examples_per_second",
        "Peak memory, MiB": "peak_memory_mb",
        "Seconds in all": "seconds/total",
    }
    return [
        ws.Section(name="Scores", is_open=True, panels=scores),
        ws.Section(
            name="Layers", is_open=True, panels=[*maps, wr.ParallelCoordinatesPlot(title="Every run", columns=columns)]
        ),
        ws.Section(
            name="Learning curves",
            panels=[
                wr.LinePlot(title=title, x="trainer/global_step", y=[key], title_x="step")
                for title, key in curves.items()
            ],
        ),
        ws.Section(
            name="Cost", panels=[wr.BarPlot(title=title, metrics=[key], **by_module) for title, key in costs.items()]
        ),
    ]
