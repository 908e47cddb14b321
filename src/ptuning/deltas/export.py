"""A run as a folder for others: a whole Hugging Face model, a PEFT adapter, or a delta of a few kilobytes."""

from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ptuning.deltas.card_data import Base, gather_facts, loading_arguments, public_base
from ptuning.deltas.description import Facts
from ptuning.deltas.format import save_delta
from ptuning.deltas.loading import Loaded
from ptuning.deltas.model_card import write_card
from ptuning.deltas.peft_adapter import write_adapter
from ptuning.errors import RunError
from ptuning.system.files import whole_folder, write_whole

KINDS = ("hf", "peft", "delta")


def export(
    loaded: Loaded,
    kind: str,
    out: Path,
    name: str | None = None,
    base_name: str | None = None,
    licence: str | None = None,
) -> Base:
    """Return the backbone's public name, after writing a run as a folder with a model card.

    Parameters
    ----------
    loaded
        The run.
    kind
        ``hf``: the whole model, which transformers loads alone. ``peft``: an adapter, where PEFT can hold it.
        ``delta``: the trained weights, for :func:`ptuning.load`.
    out
        The folder, which must not exist or be empty; it is written whole or not at all.
    name
        What the card tells readers to load; the folder's name by default, without where it lies.
    base_name
        The backbone's Hub id, if it was trained from a folder.
    licence
        An identifier as the Hub has them; by default what the backbone's card says.

    Returns
    -------
    Base
        The backbone as the card names it.

    Raises
    ------
    RunError
        If the folder is in use, or the run cannot be had in this form.
    """
    if kind in ("hf", "peft") and loaded.description.pooling != "cls":
        raise RunError(
            f"--to {kind} cannot say that the head reads the mean (pooling={loaded.description.pooling}): transformers "
            "would load a model that reads [CLS]. --to delta keeps it."
        )
    facts, base = gather_facts(loaded), public_base(loaded, base_name, licence)
    with whole_folder(out) as folder:
        if kind == "hf":
            _write_model(loaded, folder)
        elif kind == "peft":
            write_adapter(loaded, base, folder)
        elif kind == "delta":
            save_delta(folder, loaded.values, _description(loaded, facts, base))
        else:
            raise RunError(f"'{kind}' is not a form to export to. Forms: {', '.join(KINDS)}.")
        said = loading_arguments(loaded) if kind == "peft" else None
        card = write_card(kind, name or f"./{out.name}", loaded.task, facts, base, loaded.max_length, said)
        write_whole(folder / "README.md", str(card).encode())
    return base


def _write_model(loaded: Loaded, folder: Path) -> None:
    tokenizer = deepcopy(loaded.tokenizer)
    backend = tokenizer.backend_tokenizer  # it remembers how it cut and padded last
    backend.no_truncation()
    backend.no_padding()
    loaded.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _description(loaded: Loaded, facts: Facts, base: Base) -> dict[str, Any]:
    """Return the delta's description with the backbone's public name and the facts of the model card."""
    known = loaded.description
    kept = {name: value for name, value in known.content.items() if name not in ("format", "sha256", "backbone")}
    backbone = {**asdict(known.backbone), "path": base.name, "revision": base.revision}
    return {**kept, "backbone": backbone, "run": asdict(facts)}
