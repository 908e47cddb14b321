"""The W&B workspace: what would be sent names only what runs really log, and without a network nothing waits."""

import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import wandb

from ptuning.cli.main import main
from ptuning.results.summary import COLUMNS
from support.running import Train
from support.wandb_files import read_back

pytestmark = pytest.mark.filterwarnings("ignore:Pydantic V1")
pytest.importorskip("wandb_workspaces", reason="the extra `dashboard` is not installed")


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Return the exit code and the last line of what the command said."""
    code = 0
    try:
        main(["dashboard", *words])
    except SystemExit as error:
        code = int(error.code or 0)
    out, err = capsys.readouterr()
    return code, (out + err).strip().splitlines()[-1]


def panels(sent: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for section in sent["spec"]["section"]["panelBankConfig"]["sections"] for panel in section["panels"]]


@pytest.fixture
def sent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    file = tmp_path / "dashboard.json"
    words = ("--entity", "me", "--project", "mine", "--tasks", "rte,mrpc", "--out", str(file))
    assert command(capsys, *words) == (0, str(file))
    return dict(json.loads(file.read_text()))


def test_every_chart_reads_keys_that_a_run_logs(sent: dict[str, Any], train: Train) -> None:
    logged = read_back(train("logger=wandb", "trainer.max_epochs=1", "trainer.log_every_n_steps=1").path)
    history = {key for row in logged["history"] for key in row}
    kinds = {panel["viewType"] for panel in panels(sent)}
    assert {"Bar Chart", "Scatter Plot", "Vega2", "Parallel Coordinates Plot", "Run History Line Plot"} == kinds
    for panel in panels(sent):
        config = panel["config"]
        if panel["viewType"] == "Run History Line Plot":
            assert {*config["metrics"], config["xAxis"]} <= history
        else:
            assert set(config.get("metrics", ())) <= set(logged["summary"])
        if grouping := config.get("groupBy"):
            assert grouping.removesuffix(".value") in logged["config"]
        places = [config[axis] for axis in ("xAxis", "yAxis") if panel["viewType"] == "Scatter Plot"]
        for place in [*places, *(column["accessor"] for column in config.get("columns", ()))]:
            section, _, key = place.partition(":")
            assert key.removesuffix(".value") in logged[{"c": "config"}.get(section, section)], place
    (runs,) = sent["spec"]["section"]["runSets"]
    assert [key["name"] for key in runs["grouping"]] == ["task_name.value", "module_name.value"]
    for column in runs["runFeed"]["columnOrder"][1:]:
        section, _, key = column.partition(":")
        assert key in logged[section]


def test_score_is_drawn_against_parameters_on_a_logarithmic_axis(sent: dict[str, Any]) -> None:
    (scatter,) = [panel["config"] for panel in panels(sent) if panel["viewType"] == "Scatter Plot"]
    assert (scatter["xAxis"], scatter["yAxis"]) == ("summary:trainable_percent", "summary:score")
    assert scatter["xAxisLogScale"] is True


def test_each_task_has_a_heat_map_of_the_cells_that_a_sweep_logs(sent: dict[str, Any]) -> None:
    maps = [panel["config"] for panel in panels(sent) if panel["viewType"] == "Vega2"]
    assert [chart["stringSettings"]["task"] for chart in maps] == ["rte", "mrpc"]
    for chart in maps:
        assert set(chart["fieldSettings"].values()) <= set(COLUMNS)
        vega = json.dumps(sent["charts"][chart["panelDefId"]])
        assert all(f"${{field:{name}}}" in vega for name in chart["fieldSettings"])
        assert all(f"${{string:{name}}}" in vega for name in chart["stringSettings"])
        (query,) = chart["userQuery"]["queryFields"]
        assert {"name": "tableKey", "value": "cells"} in [a for f in query["fields"] for a in f.get("args", ())]


class StandIn(ThreadingHTTPServer):
    """As much of W&B's server as the command asks: whose key it is, a chart and a view to keep."""

    def __init__(self, refuses: str) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.refuses = refuses  # an error for the chart, if it is not empty
        self.kept: dict[str, dict[str, Any]] = {}


class Answer(BaseHTTPRequestHandler):
    server: StandIn

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        asked = json.loads(body) if self.path == "/graphql" else {"query": ""}
        me = {"id": "1", "username": "me", "entity": "me", "email": "me@example.org", "flags": "{}"}
        data: dict[str, Any] = {"viewer": me}
        errors = []
        for name in ("CreateCustomChart", "UpsertView2"):
            if f"mutation {name}" in asked["query"]:
                self.server.kept[name] = asked["variables"]
                errors = [{"message": self.server.refuses}] if name == "CreateCustomChart" else []
                view = {"id": "1", "name": asked["variables"].get("name")}
                data = {"upsertView": {"view": view}, "createCustomChart": {"chart": {"id": "me/x"}}}
        reply = json.dumps({"errors": errors} if errors and self.server.refuses else {"data": data}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize("refuses", ["", "a chart of this name already exists", "permission denied"])
def test_the_chart_and_the_view_are_sent_as_the_file_says(
    refuses: str, sent: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with StandIn(refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", address)
        monkeypatch.delenv("WANDB_ENTITY", raising=False)
        wandb.teardown()  # it reads the environment once
        code, said = command(capsys, "--project", "mine", "--tasks", "rte,mrpc")
        wandb.teardown()
        server.shutdown()
    if refuses == "permission denied":
        assert code == 2
        assert "permission denied" in said
        return
    assert code == 0
    chart, view = server.kept["CreateCustomChart"], server.kept["UpsertView2"]
    assert json.loads(chart["spec"]) == sent["charts"]["me/ptuning-layers"]
    assert (view["entityName"], view["projectName"], view["displayName"]) == ("me", "mine", "ptuning")
    spec = json.loads(view["spec"])
    for left, right in zip(panels({"spec": spec}), panels(sent), strict=True):
        assert {**left, "__id__": ""} == {**right, "__id__": ""}  # ids of panels are drawn anew
    assert address in said


def test_without_a_key_or_a_network_one_sentence_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = command(capsys)
    assert code == 2
    assert "no W&B key" in said
    assert "--out FILE" in said
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    began = time.monotonic()
    code, said = command(capsys, "--entity", "me")
    assert time.monotonic() - began < 20  # neither a hang nor a prompt
    assert code == 2
    assert "127.0.0.1 does not answer" in said
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert "WANDB_MODE=offline" in command(capsys, "--entity", "me")[1]


def test_without_the_package_its_extra_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['wandb_workspaces'] = None; from ptuning.cli.main import main; "
        f"main(['dashboard', '--out', {str(tmp_path / 'x.json')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert (
        done.stderr.strip() == "The dashboard needs a package that is not installed: pip install 'ptuning[dashboard]'"
    )


def test_a_task_that_is_not_glues_is_said_to_be_taken_for_own_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = command(capsys, "--entity", "me", "--tasks", "rte,mprc", "--out", str(tmp_path / "view.json"))
    assert code == 0
    assert said == "'mprc' is none of GLUE's tasks; its chart shows custom data of that name. Did you mean 'mrpc'?"
