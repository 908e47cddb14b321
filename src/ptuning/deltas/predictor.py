"""Logits of a run's model for texts, in batches of like length."""

import torch
from torch import Tensor, nn

from ptuning.backbones.load import input_names
from ptuning.data.samplers import SortedBatches
from ptuning.data.sources import DataSource
from ptuning.data.table import Table
from ptuning.data.tokenize import TokenTable, tokenize
from ptuning.deltas.loading import Loaded
from ptuning.system.files import cache_folder


class Predictor:
    """Computes logits with a run's model in fp32, on a GPU if there is one.

    Parameters
    ----------
    loaded
        The run.
    batch_size
        Rows per forward pass.
    """

    def __init__(self, loaded: Loaded, batch_size: int = 64) -> None:
        self.loaded = loaded
        self.task = loaded.task
        self.batch_size = batch_size
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model: nn.Module = loaded.model.to(self.device)
        self._inputs = input_names(self.model)

    def answer(self, table: Table) -> Tensor:
        """Return logits [rows, outputs] on the CPU, in the table's own order."""
        return self.logits(tokenize(table, self.loaded.tokenizer, self.loaded.max_length, cache=None))

    def answer_split(self, source: DataSource, split: str) -> tuple[Tensor, Tensor | None]:
        """Return (logits [rows, outputs], labels [rows] or ``None``) of a split; its tokens are kept on disk."""
        cache = cache_folder() / "tokens"
        tokens = tokenize(source.read(split), self.loaded.tokenizer, self.loaded.max_length, cache)
        return self.logits(tokens), tokens.labels

    def logits(self, tokens: TokenTable) -> Tensor:
        """Return logits [rows, outputs] on the CPU, in the table's own order."""
        found = torch.zeros(len(tokens), self.task.num_outputs)
        with torch.inference_mode():
            for rows in SortedBatches(tokens.lengths, self.batch_size):
                batch = tokens[rows]
                inputs = {name: batch[name].to(self.device) for name in self._inputs}
                found[batch["index"]] = self.model(**inputs).logits.float().cpu()
        return found
