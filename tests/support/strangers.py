"""Deltas as strangers may send them: damaged, or written anew with digests that fit."""

import json
from hashlib import sha256
from pathlib import Path
from random import Random

from ptuning.deltas.description import DESCRIPTION, WEIGHTS, write_description
from support.mutations import damage_bytes, damage_json, damage_safetensors


def seal(folder: Path) -> None:
    """Write the digests anew, as a stranger can."""
    values = json.loads((folder / DESCRIPTION).read_text())
    write_description(folder, {**values, "sha256": sha256((folder / WEIGHTS).read_bytes()).hexdigest()})


def attack(seed: int, folder: Path) -> None:
    """Damage a delta in place."""
    rng = Random(seed)
    kind = rng.randrange(5)
    if kind < 2:
        file = folder / rng.choice([DESCRIPTION, DESCRIPTION, WEIGHTS])
        file.write_bytes(damage_bytes(file.read_bytes(), rng))
    elif kind == 2:
        values = damage_json(json.loads((folder / DESCRIPTION).read_text()), rng)
        (folder / DESCRIPTION).write_text(json.dumps(values))
    elif kind == 3:
        values = damage_json(json.loads((folder / DESCRIPTION).read_text()), rng)
        if isinstance(values, dict):
            write_description(folder, values)
    else:
        (folder / WEIGHTS).write_bytes(damage_safetensors((folder / WEIGHTS).read_bytes(), rng))
        seal(folder)


def is_sealed_by_a_stranger(seed: int) -> bool:
    """Return true if the attack of this seed wrote digests that fit, so that another answer may be right."""
    return Random(seed).randrange(5) >= 3
