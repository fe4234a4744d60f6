"""Checkpoints: written whole or not at all, read without unpickling objects."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from jest_loader.checks import differ, first_few, is_number, shown, whole
from jest_loader.clip.config.model import ModelConfig
from jest_loader.clip.config.options import flat, plain
from jest_loader.clip.config.train import TrainConfig
from jest_loader.clip.models.architecture import Architecture
from jest_loader.clip.models.inputs import CONTENT, ModelInputs
from jest_loader.clip.models.model import ClipModel
from jest_loader.clip.models.open_clip_architecture import OpenClipArchitecture
from jest_loader.clip.models.torch_file import read_torch_file
from jest_loader.clip.models.towers import BundledArchitecture
from jest_loader.clip.models.trained import trained_architecture, trained_batch_size
from jest_loader.clip.saving.weights import check_sizes
from jest_loader.files import replacing
from jest_loader.scoring.calibration import Calibration
from jest_loader.scoring.embedding_checks import check_loss
from jest_loader.scoring.sized import checked_batch_size
from jest_loader.seen import SeenRows
from jest_loader.training_state import check_weights

_VERSION = 7
_WITHOUT_SIZE = 5  # Its model can be read, but its run cannot go on.
# Options that may change when a run goes on.
_FREE = {
    "out", "device", "data.micro_batch_size", "keep_checkpoints", "max_seconds",
    "rank_timeout_s",
    "selection.score_precision", "log.every", "log.tensorboard", "log.wandb",
}  # fmt: skip
_KEYS = {
    "config", "step", "seconds", "model", "average", "optimizer", "loader", "reference", "proxy",
    "evaluations", "watched", "seen", "trained_batch_size", "calibration",
}  # fmt: skip
_INPUTS = ("preprocessing", "tokenization", "context_length")


def save(path: Path, config: TrainConfig, contents: dict[str, Any]) -> None:
    """Write ``contents`` with the configuration to ``path``, in place of what was there.

    Raises:
        OSError: if the disk is full.
    """
    with replacing(path) as part:
        head = {
            "version": _VERSION,
            "config": plain(config),
            "trained_batch_size": trained_batch_size(config),
        }
        architecture = trained_architecture(config)
        if isinstance(architecture, OpenClipArchitecture):
            # The file or folder that described it may be gone when the checkpoint is read.
            head["open_clip"] = architecture.saved()
        try:
            torch.save({**head, **contents}, part)
        except RuntimeError as error:
            if "inline_container" not in str(error):  # Torch's writer, where a write failed.
                raise
            raise OSError(
                f"{path} cannot be written, as where a disk is full; make room for it, and the "
                f"same command goes on ({str(error).splitlines()[0]})"
            ) from error


def load(path: Path) -> dict[str, Any]:
    """What ``save`` wrote, on the CPU.

    Args:
        path: A checkpoint, or the folder of a run, for its newest checkpoint.

    Raises:
        ValueError: if there is no checkpoint, it is not as it was written, or it is of another
            version.
    """
    if path.is_dir():
        path = path / "checkpoint.pt"
    if not path.is_file():
        raise ValueError(f"no checkpoint at {path}; train a model first")
    try:
        contents = read_torch_file(path)
    except Exception as error:
        raise ValueError(
            f"{path} must be a whole checkpoint of jest-loader train, but cannot be read as one "
            f"({type(error).__name__}: {shown(error)}); move it away, or name another"
        ) from error
    if not isinstance(contents, dict) or "version" not in contents:
        raise ValueError(
            f"{path} must be a checkpoint of jest-loader train, but is another file of torch's; "
            "weights of open_clip are named by open_clip.checkpoint"
        )
    if contents["version"] == _WITHOUT_SIZE:
        contents = _with_size(contents)
    elif contents["version"] != _VERSION:
        raise ValueError(
            f"{path} must be a checkpoint of version {_VERSION}, got {shown(contents['version'])}; "
            "read it with the release of jest-loader that wrote it"
        )
    _check_values(path, contents)
    return dict(contents)


def _with_size(contents: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint that says nothing of batch sizes and seen pictures, with what is known."""
    known = None
    if "open_clip" not in contents:  # Such a run may have started from weights of others.
        with suppress(Exception):  # Its configuration may be anything yet.
            known = contents["config"]["data"]["batch_size"]
    return {**contents, "trained_batch_size": known, "calibration": None, "seen": None}


def _check_values(path: Path, contents: dict[str, Any]) -> None:
    """Raise ``ValueError`` unless a loaded checkpoint has what each one has, in range."""
    if missing := _KEYS - contents.keys():
        raise ValueError(
            f"{path} must hold all of a run, but lacks {first_few(sorted(missing))}; name another"
        )
    try:
        config = contents["config"]
        flat(config)  # So that it is no deeper than can be walked.
        check_loss(config["loss"])
        _seen_by(contents)
        checked_batch_size(contents["trained_batch_size"])
        calibration_of(contents)
        whole("step", contents["step"], 0, config["steps"])
        seconds = contents["seconds"]
        if not is_number(seconds) or not 0 <= seconds < float("inf"):
            raise ValueError(f"seconds must be a number of at least 0, got {seconds!r}")
    except Exception as error:
        raise ValueError(
            f"{path} holds no run that can be: {shown(error)}; name another"
        ) from error


def load_model(
    path: Path, *, for_inputs_of: TrainConfig | None = None, ema: bool = False
) -> ClipModel:
    """The model of a checkpoint, on the CPU.

    Args:
        path: The checkpoint.
        for_inputs_of: A run; the model must take its images and tokens. None takes any model.
        ema: Take the average of its weights instead of its last weights.

    Raises:
        ValueError: as ``load``, if the model takes other inputs or has another loss, or if the
            checkpoint holds no average.
    """
    contents = load(path)
    if for_inputs_of is not None:
        loss = contents["config"]["loss"]
        check_inputs(path, architecture_of(contents), loss, for_inputs_of)
    return model_of(contents, ema=ema)


def model_of(contents: dict[str, Any], *, ema: bool = False) -> ClipModel:
    """The model of a loaded checkpoint, on the CPU, with the average of its weights if ``ema``.

    Raises:
        ValueError: if there is no average.
    """
    weights = contents["average" if ema else "model"]
    if weights is None:
        raise ValueError(
            "ema takes the average of a run's weights, but this run kept none; train with "
            "optimizer.ema_decay, or leave ema out"
        )
    architecture, loss = architecture_of(contents), contents["config"]["loss"]
    with torch.device("meta"):
        check_weights(architecture.empty(loss), weights)  # Before it takes memory.
    model = architecture.empty(loss)
    model.load_state_dict(weights)
    model.seen = _seen_by(contents)
    model.trained_batch_size = contents["trained_batch_size"]
    return model


def _seen_by(contents: dict[str, Any]) -> SeenRows | None:
    """Which pictures a loaded checkpoint's model was trained on; None where it is not known."""
    seen = contents["seen"]
    return None if seen is None else SeenRows.from_state(seen, CONTENT)


def calibration_of(contents: dict[str, Any]) -> Calibration | None:
    """The scale and bias that a loaded checkpoint's run had fitted its reference to, if it had.

    Raises:
        ValueError: if no model can have them.
    """
    found = contents["calibration"]
    return None if found is None else Calibration(*found).checked()


def architecture_of(contents: dict[str, Any]) -> Architecture:
    """What builds the model of a loaded checkpoint.

    Raises:
        ValueError: if it describes no model, or a larger one than it has weights for.
    """
    try:
        if "open_clip" in contents:
            saved = contents["open_clip"] | {"weights": None, "fetch": False}
            check_sizes(saved["model_cfg"], contents["model"])
            return OpenClipArchitecture(**saved)
        sizes = contents["config"]["model"]
        check_sizes(sizes, contents["model"])
        return BundledArchitecture(ModelConfig(**sizes))
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(
            f"a checkpoint must describe its model, but this one does not ({shown(error)}); name "
            "another"
        ) from error


def check_inputs(path: object, model: ModelInputs, loss: str, config: TrainConfig) -> None:
    """Raise ``ValueError`` unless the model of ``path`` takes a run's inputs and has its loss."""
    now = trained_architecture(config)
    pairs = {name: (getattr(model, name), getattr(now, name)) for name in _INPUTS}
    for name, (there, here) in {**pairs, "loss": (loss, config.loss)}.items():
        if there != here:
            raise ValueError(
                f"a reference must take the learner's inputs and have its loss, but {name} is "
                f"{shown(there)} in {path} and {shown(here)} in this run"
            )


def check_same_run(path: Path, contents: dict[str, Any], config: TrainConfig) -> None:
    """Raise ``ValueError`` unless the checkpoint at ``path`` is of this configuration."""
    if contents["version"] != _VERSION:
        raise ValueError(
            f"{path.parent} holds a run of version {contents['version']}, whose reference scored "
            "with the bias of another batch size; go on with the release of jest-loader that began "
            "it, or choose another folder"
        )
    was, now = flat(contents["config"]), flat(plain(config))
    for name in sorted(was.keys() | now.keys(), key=str):
        if name not in _FREE and differ(was.get(name), now.get(name)):
            raise ValueError(
                f"{path.parent} holds a run with {shown(name)} = {shown(was.get(name))}, which "
                f"cannot go on with {shown(now.get(name))}; choose another folder, or delete this "
                "one"
            )
