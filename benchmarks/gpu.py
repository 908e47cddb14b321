"""Figures of one GPU in some five minutes, what matters most first; needs GLUE's RTE and no network.

    python benchmarks/gpu.py GLUE_FOLDER [--minilm FOLDER] [--seconds 300] [--out gpu.md]

Whole commands: `python train.py …` beside Hugging Face's Trainer with PEFT (benchmarks/peers), BERT-base by its size
with random weights. Each line is printed, and written to the file, when it is known; what the time does not suffice for
is named. Without CUDA it says so; --rows makes it short enough to try on a CPU.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from commands import shorten, train
from flops import product_rates
from peers import find_model, needed_flops, token_counts
from ratios import machine
from sides import CACHED, Work, run_ours, run_peer
from torch import nn
from torch.nn import functional
from transformers import AutoConfig

BASE, MINILM = "bert-base-random", "minilm"
STEPS = 20


@dataclass(frozen=True)
class Line:
    """A line of the table: what is trained, by which side of sides.py; ``expected`` are examples/s of an H100."""

    name: str
    work: Work
    side: str
    expected: str = ""


def norms(model: str, ours: tuple[str, ...] = (), peers: tuple[str, ...] = ()) -> Work:
    """Return LayerNorms of all layers, three epochs."""
    return Work("layernorm", 3, 5e-3, ours=ours, peers=peers, model=model)


LINES = (
    Line("BERT-base, LayerNorms: ours", norms(BASE), "ours", "3,000 to 3,800"),
    Line("… Trainer + PEFT, bf16, grouped", norms(BASE), "trainer-grouped", "2,300 to 2,800"),
    Line("… Trainer + PEFT, bf16, padded to 128", norms(BASE, peers=("--bf16",)), "trainer"),
    Line("… ours, trainer.compile=true", norms(BASE, ours=("trainer.compile=true",)), "ours"),
    Line("… Trainer + PEFT, compiled", norms(BASE, peers=("--torch-compile",)), "trainer-grouped", "4,500 to 5,500"),
    Line("MiniLM, LayerNorms: ours", norms(MINILM), "ours"),
    Line("… Trainer + PEFT, bf16, grouped", norms(MINILM), "trainer-grouped"),
    Line("BERT-base, all weights: ours", Work("full", 3, 5e-5, model=BASE), "ours"),
    Line("… Trainer, bf16, grouped", Work("full", 3, 5e-5, model=BASE), "trainer-grouped"),
    Line("BERT-base, last layer: prefix cached", Work("layernorm", 5, 5e-3, "last", CACHED, model=BASE), "ours"),
    Line("… prefix live", Work("layernorm", 5, 5e-3, "last", model=BASE), "ours-live"),
)
HEAD = (
    "| work | precision | examples/s | an H100 may have | MFU | command, s | of it not training, s | peak, MiB |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- |"
)


class Bench:
    """The files and models that all lines share."""

    def __init__(self, chosen: argparse.Namespace, folder: Path) -> None:
        self.chosen, self.folder = chosen, folder
        self.rows = shorten(chosen.glue, folder, chosen.rows, chosen.rows)
        self.models = {
            BASE: find_model(BASE, chosen.minilm, folder),
            MINILM: find_model(chosen.minilm or MINILM, None, folder),
        }

    def row(self, number: int, line: Line) -> str:
        """Measure one line and return it."""
        typed, model = self.models[line.work.model]
        config = AutoConfig.from_pretrained(model, num_labels=2)
        self.chosen.blocks = config.num_hidden_layers
        place = self.folder / str(number)
        if line.side.startswith("ours"):
            found = run_ours(self.chosen, line.work, typed, self.folder, place, 1)
        else:
            found = run_peer(self.chosen, line.work, line.side, str(model), self.folder, place, 1)
        lengths = token_counts(model, self.folder)
        rates = product_rates(config, round(self.chosen.batch_size * statistics.mean(lengths)))
        rate = rates.get(found.precision, rates["32-true"])
        used = needed_flops(config, lengths, line.work, line.work.module) / (found.train * rate)
        cells = (
            line.name,
            found.precision,
            f"{found.rate:,.0f}",
            line.expected,
            "" if found.cached else f"{100 * used:.0f} %",
            f"{found.wall:.1f}",
            f"{found.wall - found.train:.1f}",
            f"{found.peak:,.0f}",
        )
        return f"| {' | '.join(cells)} |"

    def sweep(self, together: int) -> str:
        """Run 16 jobs of MiniLM, so many at once on the GPU, and return a sentence."""
        typed = (f"backbone={self.models[MINILM][0]}", "data=local", f"data.dir={self.folder}", "task=rte")
        grid = ("-m", "module=layernorm,query", "seed=1,2,3,4,5,6,7,8", "trainer.max_epochs=1")
        place = self.folder / f"sweep-{together}"
        wall, records = train(place, None, (*grid, *typed, f"jobs_per_gpu={together}"))
        trained = sum(record["seconds"]["train"] for record in records)
        each = f"{wall:.1f} s, {wall / len(records):.1f} a job"
        return f"{len(records)} jobs, jobs_per_gpu={together}: {each}, training {trained:.0f} s in all"

    def profile(self) -> str:
        """Return what 20 training steps of BERT-base's LayerNorms are, by torch's profiler."""
        from torch.profiler import ProfilerActivity, profile

        from ptuning.acceleration import accelerate
        from ptuning.backbones.load import load_model
        from ptuning.backbones.source import find_backbone
        from ptuning.selection.select import select
        from ptuning.tasks.glue import get_task

        model: nn.Module = load_model(find_backbone(str(self.models[BASE][1])), get_task("rte"), 1)
        select(model, "layernorm")
        acceleration = accelerate(model.cuda().train(), "cuda")
        acceleration.begin_fit("bf16-mixed")
        moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(moving, fused=True)
        ids = torch.randint(1000, 20_000, (32, 72), device="cuda")
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
        batch["labels"] = ids[:, 0] % 2

        def steps(count: int) -> float:
            torch.cuda.synchronize()
            began = time.perf_counter()
            for _ in range(count):
                with torch.autocast("cuda", dtype=torch.bfloat16, cache_enabled=False):
                    loss = acceleration.training_loss(functional.cross_entropy, batch)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            torch.cuda.synchronize()
            return time.perf_counter() - began

        steps(5)
        plain = steps(STEPS)
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
            steps(STEPS)
        events = seen.key_averages()
        kernels = [one for one in events if one.device_type == torch.autograd.DeviceType.CUDA]
        busy = sum(one.self_device_time_total for one in kernels) / 1e6
        waits = sum(one.count for one in events if "Synchronize" in one.key) - 2  # two are the measurement's own
        launched = sum(one.count for one in kernels) / STEPS
        return (
            f"a step of 32 rows of 72 tokens takes {1000 * plain / STEPS:.1f} ms without the profiler; {launched:.0f} "
            f"kernels, busy {100 * busy / plain:.0f} % of it; {waits} waits in {STEPS} steps"
        )


def measure(bench: Bench) -> Iterator[str]:
    """Yield the lines of the page, each when it is known."""
    ends = time.monotonic() + bench.chosen.seconds
    left: list[str] = []
    yield f"{machine(bench.chosen.threads)}; RTE, {bench.rows:,} rows, batch {bench.chosen.batch_size}\n\n{HEAD}"
    for number, line in enumerate(LINES):
        if time.monotonic() >= ends:
            left.append(line.name)
            continue
        try:
            yield bench.row(number, line)
        except SystemExit as failed:  # with the end of what the command wrote: the other lines may do
            yield f"| {line.name} | failed: {str(failed).splitlines()[-1]} |"
    yield ""
    if torch.cuda.is_available():
        yield f"- profile: {bench.profile()}"
    for together in (1, 2, 4, 8):
        if time.monotonic() < ends:
            yield f"- sweep: {bench.sweep(together)}"
        else:
            left.append(f"jobs_per_gpu={together}")
    if left:
        yield f"- not measured in {bench.chosen.seconds:.0f} s: {'; '.join(left)}"


def main() -> None:
    """Print the page and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("glue", type=Path, help="folder that holds RTE")
    parser.add_argument("--minilm", help="folder with MiniLM; without it the packaged one")
    parser.add_argument("--seconds", type=float, default=300, help="after which nothing more begins")
    parser.add_argument("--out", type=Path, default=Path("gpu.md"))
    parser.add_argument("--rows", type=int, help="of train and dev; tries the script on a CPU")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    chosen = parser.parse_args()
    chosen.batch_size, chosen.evaluate, chosen.override = 32, "end", []
    if not torch.cuda.is_available() and chosen.rows is None:
        print("There is no CUDA here, so there is nothing to measure.")
        return
    with tempfile.TemporaryDirectory() as folder, chosen.out.open("w") as page:
        for text in measure(Bench(chosen, Path(folder))):
            print(text, flush=True)
            print(text, file=page, flush=True)


if __name__ == "__main__":
    main()
