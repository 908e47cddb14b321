"""A race in a report: who won, who is out and why, the picture of its rounds; strange files are named."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from ptuning.results import read_results, write_report
from ptuning.results.race_rules import OUT, REFUSED, Race
from ptuning.results.races import interval, race_table, replay, rules_of
from ptuning.results.text_table import TextTable
from ptuning.runs.race_record import FILE, RaceCandidate, RaceRecord, find_races, last_calls, read_race, write_race
from support.records import NOW, seeds

NAMES, MEANS = ("frozen", "layernorm", "bias", "full"), (-8.0, -0.1, 0.0, -0.1)


def held(rounds: int = 30, names: Sequence[str] = NAMES, margin: float = 0.01) -> RaceRecord:
    """A race on drawn scores: the first candidate is hopeless, the second as good as the best."""
    generator = np.random.default_rng(1)
    scores = (np.array(MEANS)[:, None] + 0.3 * generator.standard_normal((4, 30)) + 80) / 100
    record = RaceRecord(margin, 0.05, "smallest", 0.0, 0, 0, "", None, ())
    race, runs, ended = Race([0, 256, 576, 33_000], rules_of(record)), 0, 0
    while ended < rounds and (turns := race.turns()):
        race.end_round({one: scores[one, seed - 1] for one, seed in turns})
        runs, ended = runs + len(turns), ended + 1
    candidates = [
        RaceCandidate(
            name,
            (f"module={name}",),
            race.status[one],
            None if (by := race.by[one]) is None else names[by],
            None,
            (0, 256, 576, 33_000)[one],
            *[tuple(map(float, scores[one, : race.seeds[one]]))] * 2,
            (1.0,) * race.seeds[one],
            tuple(f"runs/minilm/rte/{name}/all/seed={seed}" for seed in range(1, race.seeds[one] + 1)),
        )
        for one, name in enumerate(names)
    ]
    answer = None if race.answer is None else names[race.answer]
    refused = RaceCandidate("layernorm layers=99", (), REFUSED, None, "there is no layer 99", None, (), (), (), ())
    end = "answered" if answer else "runs spent"
    return replace(record, rounds=ended, runs=runs, end=end, answer=answer, candidates=(*candidates, refused))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder of runs with a race that was stopped after a round and gone on with, and three strange files."""
    seeds(tmp_path, 0.7, 0.72, module="layernorm")
    for name, race in (("1", held(rounds=1)), ("2", held())):
        (tmp_path / ".sweeps" / name).mkdir(parents=True)
        write_race(tmp_path / ".sweeps" / name / FILE, race)
    whole = json.loads((tmp_path / ".sweeps" / "2" / FILE).read_text())
    for name, content in (
        ("3", "{"),
        ("4", json.dumps(whole | {"margin": "wide"})),
        ("5", json.dumps(whole | {"answer": "nobody"})),
    ):
        (tmp_path / ".sweeps" / name).mkdir()
        (tmp_path / ".sweeps" / name / FILE).write_text(content)
    return tmp_path


def row(table: TextTable, name: str) -> tuple[str, ...]:
    return next(tuple(map(str, line)) for line in table.rows if line[0] == name)


def test_a_report_says_who_won_and_who_is_out_and_draws_the_rounds(runs: Path, tmp_path: Path) -> None:
    results = read_results(runs)
    (race,) = results.races  # of two calls of one race the further
    assert race.table.title == "Race on minilm rte: smallest surely within 1 point of the best"
    assert race.table.caption.startswith("Answer: layernorm. ")
    assert row(race.table, "layernorm")[5] == "the answer"
    assert re.fullmatch(r"out: \w+ is surely better by more than the margin", row(race.table, "frozen")[5])
    assert re.fullmatch(r"−[78]\.\d ± \d\.\d", row(race.table, "frozen")[4])
    assert row(race.table, "layernorm layers=99")[5] == "cannot run: there is no layer 99"
    assert race.picture is not None
    assert "#a3a3ab" in race.picture.inline  # who is out is grey
    page = write_report(results, tmp_path / "report", NOW)
    text = page.read_text()
    assert "<h2>Races</h2>" in text
    assert race.picture.inline in text
    assert {file.name for file in page.parent.rglob("race-1.*")} == {
        f"race-1.{kind}" for kind in ["png", "svg", "pdf", "md", "tex"]
    }


def test_races_that_differ_in_what_their_runs_share_are_races_of_their_own(tmp_path: Path) -> None:
    race = held(2)
    races = [
        race,
        replace(race, shared=("trainer.max_epochs=2",)),
        replace(race, shared=("trainer.max_epochs=2",), rounds=1, runs=1),
        replace(race, on_dev=True),
    ]
    for number, one in enumerate(races):
        (tmp_path / ".sweeps" / str(number)).mkdir(parents=True)
        write_race(tmp_path / ".sweeps" / str(number) / FILE, one)
    found = [one for _, one in find_races(tmp_path)]
    assert found == races
    assert last_calls(races) == [races[0], races[1], races[3]]
    table = race_table(races[3], replay(races[3]), 1, {})
    assert "decides" in table.head
    assert "held out" not in (*table.head, table.caption)


def test_scores_of_a_race_may_have_no_lower_bound(tmp_path: Path) -> None:
    race = held(2)
    low = replace(race.candidates[0], scores=(-1.4, -1.2), dev=(-1.5, -1.1))
    write_race(tmp_path / FILE, replace(race, candidates=(low, *race.candidates[1:])))
    assert not isinstance(read_race(tmp_path / FILE), str)


def test_a_strange_race_is_named_and_left_out(runs: Path) -> None:
    left = {entry.file: entry.reason for entry in read_results(runs).collected.left_out}
    assert set(left) == {f".sweeps/{name}/{FILE}" for name in "345"}
    assert left[f".sweeps/4/{FILE}"] == "no race ('margin' is of another type: 'wide')"
    assert left[f".sweeps/5/{FILE}"] == "no race: its values are none that are written"
    damaged = runs / ".sweeps" / "2" / FILE
    damaged.write_text(damaged.read_text().replace('"layernorm"', '"bias"', 1))
    assert "digest does not fit" in dict(find_races(runs))[f".sweeps/2/{FILE}"]  # type: ignore[operator]


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"alpha": 7},
        {"candidates": []},
        {"candidates": [{}]},
        {"rounds": "many"},
        {"objective": "luck"},
        {"end": None},
        {"margin": 2},
    ],
)
def test_whatever_a_file_says_the_answer_is_a_race_or_a_few_words(change: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps({"format": 1, **asdict(held(2)), **change}))
    assert isinstance(read_race(tmp_path / FILE), str)


def test_rounds_are_replayed_from_scores_alone_without_a_round_that_was_cut(tmp_path: Path) -> None:
    race = held()
    found = replay(race)
    assert found is not None
    assert len(found.rounds) == race.rounds
    out = next(one for one, candidate in enumerate(race.candidates) if candidate.status == OUT)
    assert len([gaps for gaps in found.rounds if out in gaps]) == len(race.candidates[out].scores)
    more = replace(race.candidates[1], scores=(*race.candidates[1].scores, 0.5), dev=(*race.candidates[1].dev, 0.5))
    cut = replace(race, candidates=(race.candidates[0], more, *race.candidates[2:]))
    again = replay(cut)
    assert again is not None
    assert len(again.rounds) == race.rounds
    assert replay(replace(race, rounds=0)) is None


def test_the_table_has_the_last_differences_of_those_too_that_were_out_before() -> None:
    record = held()
    found, race = replay(record), Race([one.weights or 0 for one in record.candidates], rules_of(record), [4])
    for _ in range(record.rounds):
        race.end_round({one: record.candidates[one].scores[seed - 1] for one, seed in race.turns()})
    assert found is not None
    gaps = race.differences(found.base)
    table = race_table(record, found, 1, {})
    early = next(one for one, candidate in enumerate(record.candidates) if candidate.status == OUT)
    assert early not in found.rounds[-1]
    for one, gap in enumerate(gaps[:4]):
        assert row(table, NAMES[one])[4] == ("best" if gap is None else interval(gap))
