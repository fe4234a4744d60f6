"""The table of a result, and the lines that it gives ``jest_loader/ops/tiles.py``."""

from collections.abc import Callable, Iterator
from typing import Any

from bench.gpu.kernels import counted
from bench.gpu.parts import PARTS
from bench.gpu.predictions import GOALS

_FAILURE_CHARACTERS = 300


def table(values: dict[str, Any]) -> str:
    """The document as text: what it was run on, the goals, and each part.

    Args:
        values: A document, as ``bench.gpu.document.read`` gives it.
    """
    made = values["environment"]
    lines = [
        f"{made['device']}, torch {made['torch']}, triton {made.get('triton', 'interpreted')}, "
        f"commit {made['commit']}"
    ]
    if values["smoke"]:
        lines.append("a smoke run: on a CPU, kernels interpreted, sizes tiny; times mean nothing")
    else:
        lines += ["", *goal_lines(values["parts"])]
    for name, part in values["parts"].items():
        said = f": {part['said'].splitlines()[-1]}" if part["said"] else ""
        lines += ["", f"{name}: {PARTS[name].question} ({part['state']}{said})"]
        lines += [f"  {line}" for line in _LINES[name](part["figures"])]
    return "\n".join(lines)


def goal_lines(parts: dict[str, Any]) -> Iterator[str]:
    """Each goal, what was found, and whether it is met."""
    for goal in GOALS:
        try:
            found = goal.found(parts)
        except KeyError:
            yield f"goal  {goal.says}: at most {goal.most:g}, not measured"
            continue
        met = "met" if found <= goal.most else "missed"
        yield f"goal  {goal.says}: at most {goal.most:g}, found {found:.2f}, {met}"


def kernel_lines(figures: dict[str, Any]) -> Iterator[str]:
    """How many tests ended how, and what failures say."""
    counts = counted(figures, ("passed", "failed", "skipped"))
    yield ", ".join(f"{count} {name}" for name, count in counts.items())
    for name, figure in figures.items():
        if figure["outcome"] == "failed":
            last = figure["said"].strip().splitlines()[-1:] or [""]
            yield f"{name}: {last[0][:_FAILURE_CHARACTERS]}"


def selection_lines(figures: dict[str, Any]) -> Iterator[str]:
    """Each form of each size."""
    for figure in figures.values():
        yield f"{figure['num_candidates']:,} -> {figure['sub_batch']:,}, width {figure['width']}"
        for name, form in figure["forms"].items():
            ms, predicted = form["ms"], form["predicted_ms"]
            picks = form.get("picks_of_fp64")
            yield (
                f"  {name:14s} {ms['median']:9.2f} ms ({ms['min']:.2f} to {ms['max']:.2f})  "
                f"{form['over_products']['median']:6.2f} x products  "
                f"{form['peak_bytes'] / 2**20:6.0f} MiB"
                + ("" if predicted is None else f"  at peak {predicted:.2f} ms")
                + ("" if picks is None else f"  picks of fp64 {picks:.2%}")
            )


def step_lines(figures: dict[str, Any]) -> Iterator[str]:
    """Steps in turn and overlapped beside training alone."""
    for figure in figures.values():
        for name, ms in figure["ms"].items():
            yield f"{name:40s} {ms:9.2f} ms"
        yield (
            f"over training alone: in turn {figure['in_turn_over_training']:.2f}, overlapped "
            f"{figure['overlapped_over_training']:.2f}, predicted {figure['predicted']:.2f}"
        )


def tile_lines(figures: dict[str, Any]) -> Iterator[str]:
    """The fastest tiles of each size, and what they gain over the rule's."""
    for name, figure in figures.items():
        ms = {tuple(one["tiles"]): one["ms"]["median"] for one in figure["tried"]}
        rule, fastest = tuple(figure["rule"]), tuple(figure["fastest"])
        off_by = max(one["off_by"] for one in figure["tried"])
        yield (
            f"{name:16s} fastest {fastest} {ms[fastest]:.3f} ms, of the rule {rule} "
            f"{ms[rule]:.3f} ms; {len(ms)} tried, sums within {off_by:.1e}"
        )


def scoring_lines(figures: dict[str, Any]) -> Iterator[str]:
    """Times of each precision beside training, then picks."""
    for name, form in figures.get("times", {}).items():
        yield (
            f"{name:16s} {form['ms']['median']:9.2f} ms  share {form['share']['median']:7.1%}  "
            f"predicted {form['predicted_share']:7.1%}"
        )
    for name, form in figures.get("picks", {}).items():
        yield (
            f"{name:16s} picks of fp64 {form['picks_of_fp64']:7.2%}  "
            f"learnability {form['learnability']:.3f}"
        )


def dictionary_lines(figures: dict[str, Any]) -> Iterator[str]:
    """What each run of the map reached."""
    for name, run in figures.items():
        yield (
            f"{name:28s} R@1 {run['r1']:6.2%}  R@10 {run['r10']:6.2%}  in its line "
            f"{run['fine']:6.2%}  wrong {run['wrong']:5.1%}  "
            f"(the reference's R@1 {run['reference_r1']:.1%})"
        )


def tiles_source(values: dict[str, Any]) -> str:
    """The device's entry in ``FASTEST`` of ``jest_loader/ops/tiles.py``, for a person to put."""
    figures = values["parts"].get("tiles", {"figures": {}})["figures"]
    lines = [f'    "{values["environment"]["device"]}": {{']
    for figure in figures.values():
        work, tiles = (", ".join(map(str, figure[name])) for name in ("work", "fastest"))
        lines.append(f"        Work({work}): Tiles({tiles}),")
    return "\n".join([*lines, "    },"])


_LINES: dict[str, Callable[[dict[str, Any]], Iterator[str]]] = {
    "kernels": kernel_lines,
    "selection": selection_lines,
    "steps": step_lines,
    "tiles": tile_lines,
    "scoring": scoring_lines,
    "dictionary": dictionary_lines,
}
