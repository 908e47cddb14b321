"""Generated inputs, ten thousand a class: what a person types, and files as anybody may have left them."""

import json
import os
import random
import shutil
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from chaos.forks import ROOT
from chaos.world import RIGHT, UNCLEAR, WRONG, Verdict
from support.configurations import BASE, draw, quick_answer
from support.mutations import damage_bytes, damage_json
from support.records import record, use
from support.strangers import attack, is_sealed_by_a_stranger

Try = Callable[[int], Verdict]
_WRITTEN = ROOT / "tests" / "fixtures" / "written_by_0.1.0"


def configurations(folder: Path) -> Try:
    """Return the case that draws overrides: a plan or one sentence, within 5 s."""
    from hydra import compose, initialize_config_dir

    from ptuning.config.compose import config_folder

    os.chdir(folder)
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        base = compose("config", list(BASE))

    def try_one(seed: int) -> Verdict:
        sentence = quick_answer(draw(seed), base)
        return Verdict(RIGHT) if len(sentence) < 1500 else Verdict(UNCLEAR, sentence[:200])

    return try_one


def records(folder: Path) -> Try:
    """Return the case that changes a record: it is read or named; every hundredth time all are read together."""
    from ptuning.results import collect, summarise
    from ptuning.results.tables import module_tables

    written = [json.loads(path.read_text()) for path in sorted(_WRITTEN.rglob("record.json"))]
    runs = folder / "runs"
    record(runs)

    def try_one(seed: int) -> Verdict:
        rng = random.Random(seed)
        place = runs / str(seed % 100)
        place.mkdir(exist_ok=True)
        use(place, damage_json(rng.choice(written), rng))
        if seed % 2:
            file = place / "record.json"
            file.write_bytes(damage_bytes(file.read_bytes(), rng))
        if seed % 100 == 99:
            collected = collect(runs, history=True)
            if len(collected.runs) + len(collected.left_out) < 100:
                return Verdict(WRONG, "a record is neither in the table nor named")
            module_tables(summarise(collected.runs))
        return Verdict(RIGHT)

    return try_one


def deltas(folder: Path) -> Try:
    """Return the case that damages a delta, or has a stranger write it: a refusal, or the same answers."""
    from ptuning.deltas.format import check_fit, open_delta
    from ptuning.deltas.loading import load_run
    from ptuning.errors import UserError

    whole = next(_WRITTEN.rglob("delta.json")).parent
    loaded = load_run(whole)
    values = {name: value.clone() for name, value in loaded.values.items()}

    def try_one(seed: int) -> Verdict:
        place = folder / "delta"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(whole, place)
        attack(seed, place)
        try:
            delta = open_delta(place)
            task = delta.description.as_task()
            check_fit(delta, loaded.model, task, "it")
            found = delta.read()
        except UserError as error:
            return Verdict(RIGHT) if "\n" not in str(error) else Verdict(UNCLEAR, str(error))
        if is_sealed_by_a_stranger(seed):
            return Verdict(RIGHT)
        same = found.keys() == values.keys() and all(found[name].equal(values[name]) for name in values)
        # Version 0.1.0, which wrote this delta, has no digest of the description: its words are as they stand.
        return Verdict(RIGHT) if same else Verdict(WRONG, "other values were read")

    return try_one


def rows(folder: Path) -> Try:
    """Return the case that writes rows of any text and reads them back, whole and then damaged."""
    import csv

    import pyarrow as pa
    import pyarrow.parquet as pq

    from ptuning.data.columns import read_columns
    from ptuning.errors import UserError

    def try_one(seed: int) -> Verdict:
        rng = random.Random(seed)
        texts = [_text(rng) for _ in range(rng.randrange(1, 6))]
        suffix = rng.choice(["csv", "jsonl", "json", "parquet"])
        file = folder / f"rows.{suffix}"
        if suffix == "csv":
            with file.open("w", newline="", encoding="utf-8") as stream:
                csv.writer(stream).writerows([["text", "label"], *([text, "a"] for text in texts)])
        elif suffix == "jsonl":
            file.write_text("".join(json.dumps({"text": text, "label": "a"}) + "\n" for text in texts), "utf-8")
        elif suffix == "json":
            file.write_text(json.dumps([{"text": text, "label": "a"} for text in texts], ensure_ascii=False), "utf-8")
        else:
            pq.write_table(pa.table({"text": texts, "label": ["a"] * len(texts)}), file, write_page_checksum=True)
        expected = [text.replace("\r\n", "\n") for text in texts] if suffix == "csv" else texts
        if read_columns(file).columns["text"] != expected:
            return Verdict(WRONG, f"{suffix}: {texts!r}")
        file.write_bytes(damage_bytes(file.read_bytes(), rng))
        try:
            read_columns(file)
        except UserError as error:
            return Verdict(RIGHT) if "\n" not in str(error) else Verdict(UNCLEAR, str(error))
        return Verdict(RIGHT)

    return try_one


def grammars(folder: Path) -> Try:
    """Return the case that types layers and subsets: what is meant is what is written back, or one sentence."""
    from ptuning.errors import UserError
    from ptuning.selection.layers import format_layers, parse_layers
    from ptuning.selection.subset import parse_subset

    signs = [
        "all",
        "first:",
        "last:",
        "top:",
        "bottom:",
        "random:",
        "outlier:",
        "fisher:",
        "dims:",
        "not:",
        "-",
        ",",
        "+",
        "[",
        "]",
        "%",
    ]
    signs += [" ", ".", "0", "1", "2", "3", "11", "12", "99", "1e3", "nan", "é", "-1", "5-9", "\0", "9" * 40]

    def try_one(seed: int) -> Verdict:
        rng = random.Random(seed)
        typed = "".join(rng.choices(signs, k=rng.randrange(1, 6)))
        for read, write in ((_layers, lambda found: format_layers(found, 12)), (parse_subset, str)):
            try:
                found = read(typed)
            except UserError as error:
                if "\n" in str(error):
                    return Verdict(UNCLEAR, str(error))
                continue
            if read(write(found)) != found:
                return Verdict(WRONG, f"{typed!r} is {found}, written as {write(found)!r}")
        return Verdict(RIGHT)

    def _layers(typed: Any) -> Any:
        found = parse_layers(typed, 12)
        assert list(found) == sorted(set(found))
        assert all(0 <= layer < 12 for layer in found)
        return found

    return try_one


PROPERTIES: Mapping[str, Callable[[Path], Try]] = {
    "configurations": configurations,
    "records": records,
    "deltas": deltas,
    "rows": rows,
    "grammars": grammars,
}


def check(name: str, first: int, last: int, folder: Path) -> Counter[str]:
    """Run a class in a process of its own, print its failures, and return how many cases were what."""
    folder.mkdir()
    counts = folder / "counts.json"
    if not (child := os.fork()):
        try:
            counts.write_text(json.dumps(_check(PROPERTIES[name](folder), name, first, last)))
        except BaseException:  # noqa: BLE001  what ended the process is printed, and counted by its parent
            traceback.print_exc()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    return Counter(json.loads(counts.read_text()) if counts.exists() else {UNCLEAR: last - first})


def _check(try_one: Try, name: str, first: int, last: int) -> Counter[str]:
    found = Counter[str]()
    for seed in range(first, last):
        try:
            verdict = try_one(seed)
        except Exception:  # noqa: BLE001  a traceback is what is looked for
            verdict = Verdict(UNCLEAR, traceback.format_exc()[-1500:])
        found[verdict.kind] += 1
        if verdict.kind != RIGHT:
            print(f"{name} --seeds {seed}:{seed + 1}: {verdict.kind}: {verdict.why}", flush=True)
    return found


def _text(rng: random.Random) -> str:
    """Return a text that is not empty, of any characters."""
    alphabet = [
        "a",
        "b",
        " ",
        ",",
        '"',
        "'",
        "\t",
        "\n",
        "\r\n",
        "é",
        "👋",
        "\u2028",
        "\\",
        "{",
        "}",
        ";",
        "\x0b",
        "\ufeff",
    ]
    return "x" + "".join(rng.choices(alphabet, k=rng.randrange(0, 12))) + "y"
