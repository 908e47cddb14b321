"""The figures of a page as Vega-Lite specifications: plain dicts. The page gives them its own font and colours."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from ptuning.results.forest import GAPS, beyond, places, window
from ptuning.results.points import (
    ABOUT,
    CONSTANT_LINE,
    FULL_LINE,
    LINES,
    MARKERS,
    Points,
    outside,
    style,
    styles,
    within,
)
from ptuning.results.statistics import UNDECIDED
from ptuning.results.text_table import MARK, MISSING
from ptuning.selection.names import module_key

Spec = dict[str, Any]

PARAMETERS = "parameters that train, head included (log)"
LAYER = "layer (0 is next to the embeddings)"
"""Titles of axes."""
HEAT = "cividis"
"""Colours of heat maps."""
_SHAPES = dict(zip(MARKERS, ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross"), strict=True))
_DASHES = dict(zip(LINES, ((1, 0), (6, 3), (2, 2)), strict=True))
_HOVER = {**dict(zip(ABOUT, ABOUT, strict=True)), "interval": "95 % interval", "runs": "run folders"}
"""What every point shows on hover: field → title."""
_HEIGHT = 300
"""Height of axes, in CSS pixels."""
_ROOM: Spec = {"zero": False, "nice": False, "padding": 10}
"""Scales that end some pixels beyond their data, where a mark is whole."""
_GREY = {"color": "#8c8c94", "marker": "D"}
"""The look of what is no module."""
_BANDS: Spec = {"labelAngle": 0, "domain": False, "ticks": False, "grid": False, "labelOverlap": True}
_CELL_TEXT = (24, 36)
"""CSS pixels of a heat map's cell from which it shows its score, and from which in the ordinary size."""


def parameter_spec(points: Points) -> Spec:
    """Return the specification of score against trainable parameters."""
    rows = points.rows
    values = _about(rows)
    shown = rows[["size", "mean", "std", "each", "is_whole"]].itertuples(index=False, name=None)
    for value, (size, mean, std, each, whole) in zip(values, shown, strict=True):
        half = std if whole and not pd.isna(std) else 0.0
        value |= {"size": int(size), "mean": _short(mean), "whole": bool(whole)}
        value["each"] = list(map(_short, each)) if whole and len(each) > 1 else []
        value |= {"low": _short(mean - half), "high": _short(mean + half)}
    look = _look("module", dict(zip(rows["module"], rows["module"], strict=True)))
    size = {
        "scale": {"type": "log", "nice": False, "padding": 20},
        "axis": {"format": "~s", "grid": False, "tickCount": 5},
    }
    point = {
        "y": _number("mean", points.axis),
        "color": look["color"],
        "shape": look["shape"],
        "opacity": _picked(1),
        "tooltip": _hover(size=("parameters that train", ",")),
    }
    bar = {"y": _number("low", points.axis), "y2": {"field": "high"}, "color": look["color"], "opacity": _picked(1)}
    layers = [_layer({"type": "rule", "aria": False}, bar) | {"params": _legend("module")}]
    if any(value["each"] for value in values):
        seed = {**point, "y": _number("each", points.axis), "opacity": _picked(0.6)}
        dot = _layer({"type": "point", "aria": False, "size": 18, "filled": True}, seed)
        layers.append({**dot, "transform": [{"flatten": ["each"]}]})
    layers += _lines(points, min(value["low"] for value in values), max(value["high"] for value in values))
    if not rows["is_whole"].all():
        layers.append(_layer({"type": "point", "size": 30}, point, "!datum.whole"))
    if rows["is_whole"].any():
        layers.append(_layer({"type": "point", "size": 100, "filled": True}, point, "datum.whole"))
    return {**_frame(values, x=_number("size", PARAMETERS, **size)), "layer": layers}


def _lines(points: Points, low: float, high: float) -> list[Spec]:
    """Return the layers of full fine-tuning and the constant answer, each with its name."""
    looks = {FULL_LINE: (style("full")["color"], [6, 3]), CONSTANT_LINE: (_GREY["color"], [2, 2])}
    layers: list[Spec] = []
    text = {"type": "text", "align": "left", "fontSize": 11, "color": _GREY["color"], "aria": False}
    for name, score in within(points, low, high).items():
        data, y = {"values": [{"y": _short(score), "line": name}]}, _number("y", points.axis)
        rule = {"type": "rule", "color": looks[name][0], "strokeDash": looks[name][1]}
        layers += [
            {"data": data, **_layer(rule, {"x": {"value": 0}, "x2": {"value": "width"}, "y": y})},
            {"data": data, **_layer({**text, "dy": -6}, {"x": {"value": 3}, "y": y, "text": {"field": "line"}})},
        ]
    if left := outside(points, low, high):
        place = {"x": {"value": "width"}, "y": {"value": "height"}, "text": {"field": "line"}}
        layers.append({"data": {"values": [{"line": left}]}, **_layer({**text, "align": "right", "dy": -8}, place)})
    return layers


def curve_spec(points: Points) -> Spec:
    """Return the specification of the learning curves."""
    rows = points.rows
    values = _about(rows)
    lists = ["epoch", "mean", "least", "most"]
    for value, row in zip(values, rows.to_dict("records"), strict=True):
        value |= {"name": row["name"], **{name: [_short(number) for number in row[name]] for name in lists}}
    plain = {"symbolStrokeWidth": 0}  # dashes are of lines
    look = _look("name", dict(zip(rows["name"], rows["look"], strict=True)), legend=plain)
    mean, color = _number("mean", points.axis), look["color"]
    band = {"y": _number("least", points.axis), "y2": {"field": "most"}, "color": color, "opacity": _picked(0.15, 0.02)}
    hover = _hover(epoch=("epoch", "~g"), mean=("score here", ".1f"), least=("least", ".1f"), most=("most", ".1f"))
    point = {"y": mean, "color": color, "shape": look["shape"], "opacity": _picked(1), "tooltip": hover}
    line = {"y": mean, "color": color, "strokeDash": look["strokeDash"], "opacity": _picked(1)}
    return {
        **_frame(values, x=_number("epoch", "epoch", axis={"format": "~g", **_whole_ticks(values)})),
        "transform": [{"flatten": lists}],
        "layer": [
            _layer({"type": "line", "aria": False}, line) | {"params": _legend("name")},
            _layer({"type": "area", "aria": False}, band),
            _layer({"type": "point", "size": 50, "filled": True}, point),
        ],
    }


def layer_spec(points: Points) -> Spec:
    """Return the specification of the heat map of modules by single layers."""
    rows = points.rows
    values = _about(rows)
    shown = rows[["layer", "mean", "note"]].itertuples(index=False, name=None)
    for value, (layer, mean, note) in zip(values, shown, strict=True):
        value |= {"layer": int(layer), "mean": _short(mean), "text": f"{mean:z.1f}{MARK if note else ''}"}
    modules = sorted(set(rows["module"]), key=module_key)
    layers = list(range(int(rows["layer"].max()) + 1))
    found = {(value["module"], value["layer"]) for value in values}
    absent = [(module, layer) for module in modules for layer in layers if (module, layer) not in found]
    values += [{"module": module, "layer": layer, "text": MISSING} for module, layer in absent]
    least, ordinary = (len(layers) * width for width in _CELL_TEXT)
    text = {
        "type": "text",
        "aria": False,
        "fontSize": {"expr": f"width < {ordinary} ? 9 : 11"},
        "opacity": {"expr": f"width < {least} ? 0 : 1"},
    }
    dark = {"test": f"datum.mean > {middle_of(rows['mean']):g}", "value": "#000000"}
    ink = {"condition": dark, "value": "#ffffff"}
    heat, hover = _number("mean", points.axis, scale={"scheme": HEAT, "zero": False}), _hover()
    drawn = [
        _layer({"type": "rect"}, {"color": heat, "tooltip": hover}, "isValid(datum.mean)"),
        _layer(text, {"text": {"field": "text"}, "color": ink, "tooltip": hover}, "isValid(datum.mean)"),
    ]
    if absent:
        drawn.append(_layer(text, {"text": {"field": "text"}, "color": {"value": "#8c8c94"}}, "!isValid(datum.mean)"))
    frame = _frame(
        values,
        x={"field": "layer", "type": "ordinal", "title": LAYER, "scale": {"domain": layers}, "axis": _BANDS},
        y={"field": "module", "type": "ordinal", "title": None, "scale": {"domain": modules}, "axis": _BANDS},
    )
    return {**frame, "height": 26 * len(modules), "layer": drawn}


def forest_spec(points: Points) -> Spec:
    """Return the specification of the forest plot; the page sets the panels' width and number side by side."""
    rows, lines, ends = points.rows, places(points.rows), window(points.rows)
    values = _about(rows)
    for value, row in zip(values, rows.to_dict("records"), strict=True):
        outside = beyond(row["difference"], ends)
        value |= {name: None if pd.isna(row[name]) else _short(row[name]) for name in GAPS}
        value |= {"panel": row["panel"], "place": row["place"], "verdict": row["verdict"] or MISSING}
        value |= {
            "text": outside + row["mark"],
            "side": "" if not outside else "left" if outside[0] == "◀" else "right",
        }
        value["hollow"] = row["verdict"] in (UNDECIDED, "")
    own = styles(rows[rows["is_module"]]["module"])
    looks = {row["place"]: own[row["module"]] if row["is_module"] else _GREY for row in rows.to_dict("records")}
    domain: Spec = {"domain": list(looks)}
    color: Spec = {"field": "place", "type": "nominal", "legend": None}
    shape: Spec = {**color, "scale": {**domain, "range": [_SHAPES[look["marker"]] for look in looks.values()]}}
    color["scale"] = {**domain, "range": [look["color"] for look in looks.values()]}
    x: Spec = {"type": "quantitative", "title": "points", "scale": {"domain": list(map(_short, ends)), "nice": False}}
    y: Spec = {"field": "place", "type": "nominal", "title": None, "scale": {"domain": lines}, "axis": _BANDS}
    at, verdict = {**x, "field": "difference"}, {"field": "verdict", "type": "nominal", "title": "verdict"}
    every: Spec = {"y": y, "tooltip": [verdict, *_hover(difference=("difference", "+.1f"))]}

    def rule(low: str, high: str, thick: int) -> Spec:
        mark = {"type": "rule", "aria": False, "clip": True, "strokeWidth": thick}
        encoding = {**every, "x": {**x, "field": low}, "x2": {"field": high}, "color": color}
        return _layer(mark, encoding, f"isValid(datum.{low})")

    def text(side: str, place: Spec, **where: Any) -> Spec:
        mark = {"type": "text", "fontSize": 11, "color": _GREY["color"], **where}
        return _layer(mark, {**every, "x": place, "text": {"field": "text"}}, f"datum.side === '{side}'")

    margin = {"values": [{"from": _short(-rows["margin"].iloc[0]), "to": 0}]}
    end, mark = {**x, "field": "to"}, {"type": "point", "size": 70, "strokeWidth": 2, "opacity": 1}
    point = {**every, "x": at, "color": color, "shape": shape}
    shade = {"type": "rect", "aria": False, "color": _GREY["color"], "opacity": 0.25}
    behind = {"x": {**x, "field": "from"}, "x2": {"field": "to"}}
    layers = [
        {"data": margin, **_layer(shade, behind)},
        {"data": margin, **_layer({"type": "rule", "aria": False, "color": style("full")["color"]}, {"x": end})},
        rule("low_task", "high_task", 1),
        rule("low", "high", 4),
        _layer({**mark, "filled": True}, point, "!datum.hollow && !datum.side"),
        _layer(mark, point, "datum.hollow && !datum.side"),
        text("left", {"value": 3}, align="left"),
        text("right", {"value": "width"}, align="right"),
        text("", at, align="left", dx=6, dy=-6),
    ]
    panels = list(dict.fromkeys(rows["panel"]))
    return {
        "data": {"values": values},
        "facet": {"field": "panel", "type": "nominal", "title": None, "sort": panels},
        "columns": len(panels),
        "spec": {"width": 220, "height": 22 * len(lines), "layer": layers},
    }


def middle_of(means: pd.Series) -> float:
    """Return the score above which a heat map's cell is light, so that its text is dark."""
    return float(means.min() + 0.55 * (means.max() - means.min()))


def _frame(values: list[dict[str, Any]], **encoding: Spec) -> Spec:
    fit = {"type": "fit-x", "contains": "padding"}
    return {"width": "container", "height": _HEIGHT, "autosize": fit, "data": {"values": values}, "encoding": encoding}


def _layer(mark: Spec, encoding: Spec, only: str = "") -> Spec:
    return {**({"transform": [{"filter": only}]} if only else {}), "mark": mark, "encoding": encoding}


def _about(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the texts that a point shows on hover."""
    return [{str(name): text for name, text in row.items()} for row in rows[list(ABOUT)].to_dict("records")]


def _hover(**numbers: tuple[str, str]) -> list[Spec]:
    """Return the fields of a tooltip: numbers, each with its title and format, and the texts of every point."""
    first = [_number(field, title, format=form) for field, (title, form) in numbers.items()]
    return [*first, *({"field": field, "type": "nominal", "title": title} for field, title in _HOVER.items())]


def _number(field: str, title: str, **rest: Any) -> Spec:
    return {"field": field, "type": "quantitative", "title": title, "scale": _ROOM, **rest}


def _look(field: str, modules: Mapping[str, str], **rest: Any) -> dict[str, Spec]:
    """Return the encodings of colour, shape and dashes of names by their module, as in the static figures."""
    found = styles(modules.values())
    looks = [found[module] for module in modules.values()]
    ranges: Mapping[str, list[Any]] = {
        "color": [look["color"] for look in looks],
        "shape": [_SHAPES[look["marker"]] for look in looks],
        "strokeDash": [_DASHES[look["line"]] for look in looks],
    }
    return {
        channel: {"field": field, "type": "nominal", "title": None, "scale": {"domain": list(modules), "range": values}}
        | rest
        for channel, values in ranges.items()
    }


def _whole_ticks(curves: list[dict[str, Any]]) -> Spec:
    """Return at most some ten whole epochs as ticks; nothing, which leaves it to Vega, if there are not two."""
    first = math.ceil(min(curve["epoch"][0] for curve in curves))
    last = math.floor(max(curve["epoch"][-1] for curve in curves))
    return {"values": list(range(first, last + 1, max(1, (last - first) // 8)))} if last > first else {}


def _legend(field: str) -> list[Spec]:
    """Return the parameter that a click on the legend sets; it belongs to the first layer, which the legend is of."""
    return [{"name": "picked", "select": {"type": "point", "fields": [field]}, "bind": "legend"}]


def _picked(opacity: float, otherwise: float = 0.12) -> Spec:
    """Return the opacity of what the legend has picked, which is all before a click, and of the rest."""
    return {"condition": {"param": "picked", "value": opacity}, "value": otherwise}


def _short(value: float) -> float:
    """Return a number with the digits that a figure can show, and some more."""
    return float(f"{value:.6g}")
