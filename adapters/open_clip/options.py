"""What is typed before the ``--``, and what does not go with the trainer's own arguments."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, get_args

from jest_loader.checks import shown
from jest_loader.scoring.precision import Precision

PROGRAM = "python -m jest_loader.adapters.open_clip"
_USAGE = f"{PROGRAM} [--jest-...] -- OPEN_CLIP_TRAIN'S OWN ARGUMENTS"
_DESCRIPTION = (
    "Train with open_clip_train on sub-batches that are chosen from super-batches. What follows "
    "the -- is open_clip_train's own; its --batch-size times --accum-freq is the sub-batch."
)

Score = Literal["learnability", "easy_reference", "hard_learner"]


@dataclass(frozen=True)
class JestOptions:
    """How each sub-batch is chosen.

    Args:
        score: What a candidate is worth.
        reference: ``MODEL:TAG`` or ``MODEL:FILE``, one of open_clip's models with its weights.
        reference_cache: Folder of the reference's embeddings of a csv's rows.
        reference_batch_size: Over all ranks, that the reference was trained at with the sigmoid
            loss; None takes what its cache records, or fits its scale and bias.
        super_batch_factor: Candidates for each example that is trained on.
        selector: How they are drawn from.
        num_chunks: Draws per sub-batch of the joint selector.
        gain: Factor on the logits from which candidates are drawn.
        stop_fraction: Steps are uniform from this share of the run on.
        score_micro_batch_size: Candidates that a model embeds at once; None for the trainer's batch
            size.
        score_precision: In which models score.
    """

    score: Score = "learnability"
    reference: str | None = None
    reference_cache: str | None = None
    reference_batch_size: int | None = None
    super_batch_factor: int = 5
    selector: Literal["joint", "independent", "topk"] = "joint"
    num_chunks: int = 16
    gain: float = 1.0
    stop_fraction: float = 1.0
    score_micro_batch_size: int | None = None
    score_precision: Precision = "auto"


def parse(arguments: Sequence[str]) -> tuple[JestOptions, list[str]]:
    """The options, and the trainer's own arguments.

    A mistake ends the program with one sentence and status 2.
    """
    parser, words = _parser(), list(arguments)
    own, trainers = words, None
    if "--" in words:
        own, trainers = words[: words.index("--")], words[words.index("--") + 1 :]
    typed, unknown = parser.parse_known_args(own)
    if unknown:
        parser.error(
            f"unknown option {shown(unknown[0])}; open_clip_train's own go after --, and --help "
            "lists the others"
        )
    if trainers is None:
        parser.error(f"open_clip_train's own arguments must follow a --, as in {_USAGE}")
    late = [word for word in trainers if word.startswith("--jest")]
    if late:
        parser.error(f"{shown(late[0])} must stand before the --, which open_clip_train's follow")
    given = {name.removeprefix("jest_"): value for name, value in vars(typed).items()}
    if message := _fault(given):
        parser.error(message)
    return JestOptions(**given), trainers


def check_together(options: JestOptions, args: Any) -> None:
    """Raise ``ValueError`` for what the trainer's parsed arguments do not go with."""
    if not args.train_data and args.dataset_type != "synthetic":
        raise ValueError(
            "--train-data must say what to select from, got none; to evaluate run open_clip_train "
            "itself"
        )
    if args.dataset_type == "synthetic" and not args.train_num_samples:
        raise ValueError(
            "--dataset-type synthetic has no rows of its own; give --train-num-samples"
        )
    for name in ("batch_size", "accum_freq"):
        if getattr(args, name) < 1:
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(f"{flag} must be at least 1, got {getattr(args, name)}")
    if args.horovod:
        raise ValueError(
            "--horovod must not be given, since ranks select together over torch.distributed; use "
            "torchrun"
        )
    if args.torchscript:
        raise ValueError(
            "--torchscript must not be given, since a scripted model cannot be asked for its "
            "embeddings alone; use --torchcompile"
        )
    if options.reference_batch_size is not None and not args.siglip:
        raise ValueError(
            "--jest-reference-batch-size has no effect without --siglip, since the softmax loss "
            f"has no bias, got {options.reference_batch_size}; leave it out"
        )
    if options.reference_cache is not None and not is_csv(args.train_data, args):
        raise ValueError(
            "--jest-reference-cache must go with a csv, whose rows have numbers to be found by, "
            f"got --dataset-type {args.dataset_type} of {shown(args.train_data)}; leave it out, "
            "and --jest-reference is run on each super-batch"
        )


def is_csv(path: str | None, args: Any) -> bool:
    """Whether the trainer reads a path as a csv."""
    by_name = f"{path}".rpartition(".")[2] in ("csv", "tsv")
    of_type = args.dataset_type == "csv" or (args.dataset_type == "auto" and by_name)
    return bool(path and of_type)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"jest-loader: {message}\n")


_HELP: dict[str, tuple[str, dict[str, Any]]] = {
    "score": (
        "learner loss less reference loss, minus the reference loss, or the learner loss",
        {"choices": ("learnability", "easy_reference", "hard_learner")},
    ),
    "reference": (
        "a trained model of open_clip: a tag of its weights, or a file that open_clip or "
        "open_clip_train wrote",
        {"metavar": "MODEL:TAG_OR_FILE"},
    ),
    "reference_cache": (
        "keep the reference's embeddings of a csv's rows there: --jest-reference is run once, and "
        "not at all where they are there",
        {"metavar": "FOLDER"},
    ),
    "reference_batch_size": (
        "batch size over all ranks that the reference was trained at, to which its logit bias "
        "belongs; by default what its cache records, or its scale and bias are fitted to the "
        "sub-batches at the start; for --siglip only",
        {"type": int, "metavar": "N"},
    ),
    "super_batch_factor": (
        "candidates read and scored for each example trained on",
        {"type": int, "metavar": "N"},
    ),
    "selector": ("how the sub-batch is drawn", {"choices": ("joint", "independent", "topk")}),
    "num_chunks": ("draws per sub-batch of the joint selector", {"type": int, "metavar": "N"}),
    "gain": (
        "factor on the logits from which candidates are drawn: below 1 draws are more even",
        {"type": float, "metavar": "X"},
    ),
    "stop_fraction": (
        "from this share of the run on, train on rows as they come and score nothing",
        {"type": float, "metavar": "X"},
    ),
    "score_micro_batch_size": (
        "candidates that a model embeds at once; by default open_clip_train's --batch-size",
        {"type": int, "metavar": "N"},
    ),
    "score_precision": (
        "of the models' products while they score; auto is fp16 on a GPU",
        {"choices": get_args(Precision)},
    ),
}


def _parser() -> _Parser:
    parser = _Parser(prog=PROGRAM, usage=_USAGE, description=_DESCRIPTION, allow_abbrev=False)
    for name, (says, how) in _HELP.items():
        value = getattr(JestOptions(), name)
        ends = "" if value is None else f" (default: {value})"
        parser.add_argument(_flag(name), default=value, help=f"{says}{ends}", **how)
    return parser


def _fault(given: dict[str, Any]) -> str | None:
    """What is wrong with the options by themselves; None if nothing is."""
    least = {
        "super_batch_factor": 2, "num_chunks": 1, "score_micro_batch_size": 1,
        "reference_batch_size": 1,
    }  # fmt: skip
    for name, bound in least.items():
        if given[name] is not None and given[name] < bound:
            return f"{_flag(name)} must be at least {bound}, got {given[name]}"
    if not 0 < given["gain"] < float("inf"):
        return f"--jest-gain must be positive, got {given['gain']}"
    if not 0 < given["stop_fraction"] <= 1:
        return f"--jest-stop-fraction must be above 0 and at most 1, got {given['stop_fraction']}"
    names = [name for name in ("reference", "reference_cache") if given[name] is not None]
    sized = names + ["reference_batch_size"] * (given["reference_batch_size"] is not None)
    if given["score"] == "hard_learner" and sized:
        return (
            f"{_flag(sized[0])} has no effect while --jest-score is hard_learner; leave it out, or "
            "use learnability"
        )
    if given["score"] != "hard_learner" and not names:
        return (
            f"--jest-score {given['score']} needs a reference; give --jest-reference "
            "MODEL:TAG_OR_FILE or --jest-reference-cache FOLDER, or use hard_learner"
        )
    without_effect = {"num_chunks": ("joint",), "gain": ("joint", "independent")}
    for name, selectors in without_effect.items():
        if given[name] != getattr(JestOptions(), name) and given["selector"] not in selectors:
            return f"{_flag(name)} has no effect while --jest-selector is {given['selector']}"
    return None


def _flag(name: str) -> str:
    return f"--jest-{name.replace('_', '-')}"
