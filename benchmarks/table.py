"""Print the records of a runs folder as a Markdown table: python benchmarks/table.py RUNS_FOLDER."""

import json
import sys
from pathlib import Path


def main() -> None:
    """Print one row per finished run."""
    found = [json.loads(path.read_text()) for path in Path(sys.argv[1]).rglob("record.json")]
    print("| task | module | lr | epochs | seed | score | by epoch | examples/s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for record in sorted(found, key=lambda r: (r["task"], r["module"], r["optimisation"]["lr"], r["seed"])):
        if record["status"] != "finished":
            continue
        curve = " ".join(f"{100 * entry['score']:.1f}" for entry in record["history"])
        print(
            f"| {record['task']} | {record['module']} | {record['optimisation']['lr']:g} | {record['max_epochs']} "
            f"| {record['seed']} | {100 * record['score']:.1f} | {curve} | {record['train_examples_per_second']:.0f} |"
        )


if __name__ == "__main__":
    main()
