"""LoRA beside modules: a run of ``train.py``, but for low-rank updates in the place of a module's own weights.

``python benchmarks/lora.py RANK LAYERS,… OVERRIDE …``, for example

    python benchmarks/lora.py 1 query,value backbone=minilm task=stsb optim.lr=0.005 optim.head_lr=0.01 seed=1

Rank 1 in query and value of MiniLM has 9,216 weights, exactly as many as its LayerNorms. Data, schedule, held-out rows,
evaluation and record are the run's own, so that it stands in the same tables. PEFT makes the updates (factor B zero, A
drawn from the seed, alpha equal to the rank, no dropout). The record is what is wanted: the delta of such a run cannot
be loaded, since no backbone has these parameters.
"""

import argparse
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from ptuning.config.compose import config_folder
from ptuning.training.run import execute
from ptuning.training.session import Session


class _WithLora(Session):
    """Hands out the backbone with low-rank updates in some of its linear layers."""

    def __init__(self, rank: int, targets: list[str], seed: int) -> None:
        super().__init__(keeps_backbone=False)
        self._config = LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=targets)
        self._seed = seed

    def model(self, *args: Any, **kwargs: Any) -> tuple[nn.Module, str]:
        network, digest = super().model(*args, **kwargs)
        with torch.random.fork_rng():
            torch.manual_seed(self._seed)
            inject_adapter_in_model(self._config, network)
        return network, digest


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rank", type=int)
    parser.add_argument("layers", help="names of linear layers, as query,value")
    parser.add_argument("overrides", nargs="*", help="as for train.py, but for module=")
    typed = parser.parse_args()
    targets = typed.layers.split(",")
    # The plan asks a backbone without updates, where the weights that they are of match; in training the updates do.
    names = rf"(?#LoRA of rank {typed.rank})\.({'|'.join(targets)})\.(weight$|lora_)"
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        cfg = compose("config", ["module=custom", f"module.patterns=['{names}']", *typed.overrides])
    execute(cfg, _WithLora(typed.rank, targets, cfg.seed))


if __name__ == "__main__":
    _main()
