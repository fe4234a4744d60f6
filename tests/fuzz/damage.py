"""Ways to damage what was written."""

import json
import random
from pathlib import Path
from typing import Any

_VALUES = [None, True, -1, 0, 1, 7, 10**30, 0.5, float("nan"), "", "3", [], {}, [[]]]


def damage_bytes(folder: Path, chance: random.Random) -> str:
    """Change one place of one of a folder's files; returns what was done."""
    path = chance.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    data = bytearray(path.read_bytes())
    place = chance.randrange(len(data))
    way = chance.choice(["bit", "bit", "bit", "byte", "zeros", "cut", "moved"])
    if way == "bit":
        data[place] ^= 1 << chance.randrange(8)
    elif way == "byte":
        data[place] = chance.randrange(256)
    elif way == "zeros":
        data[place : place + 64] = bytes(len(data[place : place + 64]))
    elif way == "cut":
        del data[place:]
    else:
        size = min(16, len(data) - place)
        other = chance.randrange(len(data) - size + 1)
        data[place : place + size] = data[other : other + size]
    path.write_bytes(data)
    return f"{way} at {place} of {path.relative_to(folder)}"


def damage_state(folder: Path, chance: random.Random) -> str:
    """Change or leave out one value in ``state.json``, which stays JSON; returns what was done."""
    path = folder / "state.json"
    state = json.loads(path.read_bytes())
    places = list(_places(state, ""))
    name, holder, key = chance.choice(places)
    if chance.random() < 0.2:
        del holder[key]
        done = f"{name} left out"
    else:
        was, holder[key] = holder[key], chance.choice(_VALUES)
        done = f"{name} is {holder[key]!r}, not {was!r:.60}"
    path.write_text(json.dumps(state))
    return done


def _places(value: Any, name: str) -> Any:
    """The name, the holder and the key of each value within."""
    keys = (
        range(len(value)) if isinstance(value, list) else value if isinstance(value, dict) else ()
    )
    for key in keys:
        yield f"{name}/{key}", value, key
        yield from _places(value[key], f"{name}/{key}")
