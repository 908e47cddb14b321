"""W&B's offline files, read back."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2


def scan(content: bytes) -> Iterator[bytes]:
    """The records of a W&B file: 7 bytes of header, then LevelDB's log format in blocks of 32 KiB."""
    place, whole = 7, b""
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a full record, or the last part of one
            yield whole
            whole = b""


def read_back(folder: Path) -> dict[str, Any]:
    """Everything a W&B run logged, from its offline file."""
    (file,) = folder.rglob("*.wandb")
    found: dict[str, Any] = {"config": {}, "summary": {}, "history": [], "artifacts": [], "exit": None}
    for data in scan(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            found |= {"name": run.display_name, "group": run.run_group, "tags": list(run.tags), "project": run.project}
            found |= {"job_type": run.job_type, "id": run.run_id, "sweep": run.sweep_id}
            found["config"] |= {item.key: json.loads(item.value_json) for item in run.config.update}
        elif kind == "config":
            found["config"] |= {item.key: json.loads(item.value_json) for item in record.config.update}
        elif kind == "history":
            found["history"].append(
                {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            )
        elif kind == "summary":
            found["summary"] |= {
                item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.summary.update
            }
        elif kind == "artifact":
            found["artifacts"].append((record.artifact.type, [e.path for e in record.artifact.manifest.contents]))
        elif kind == "exit":
            found["exit"] = record.exit.exit_code
    return found
