"""The number of weights that the paper names, counted by the selection on BERT-base's configuration."""

import torch

from ptuning.selection.select import choose_parameters


def count_layernorms_of_one_block() -> tuple[int, int]:
    """Return (weights in the LayerNorms of one block, all weights) of BERT-base with two labels.

    The model is built on the meta device from its class's default configuration, that of ``bert-base-uncased``: shapes
    alone, nothing is downloaded.
    """
    from transformers import AutoModelForSequenceClassification, BertConfig

    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(BertConfig())
    chosen = choose_parameters(model, "layernorm", layers=model.config.num_hidden_layers - 1)
    return chosen.trainable_parameters, chosen.total_parameters
