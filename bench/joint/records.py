"""The records: a line of JSON for each run, in a file that is kept with the figures."""

import json
from pathlib import Path
from typing import Any

from bench.harness import environment
from bench.joint.arms import Setting

RECORDS = Path("bench/results/joint.jsonl")


def is_recorded(path: Path, setting: Setting, arm: str, seed: int) -> bool:
    """Whether the records have that run."""
    own = json.loads(json.dumps({"setting": vars(setting), "arm": arm, "seed": seed}))
    return any(own.items() <= record.items() for record in read(path))


def read(path: Path) -> list[dict[str, Any]]:
    """The records, oldest first; none where there is no file."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def append(path: Path, record: dict[str, Any]) -> None:
    """Add a record in one write, so that several processes may share the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    machine = environment()
    made = {name: machine[name] for name in ("commit", "torch", "processor")}
    with path.open("a") as file:
        file.write(json.dumps({**record, **made}) + "\n")
