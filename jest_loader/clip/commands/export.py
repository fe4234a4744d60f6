"""``jest-loader export-open-clip``: a trained model as a folder that open_clip loads."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jest_loader.checks import shown
from jest_loader.clip.models.open_clip_architecture import OpenClipArchitecture
from jest_loader.clip.models.open_clip_model import OpenClipModel
from jest_loader.clip.models.open_clip_source import CONFIG_FILE, WEIGHTS_FILE
from jest_loader.clip.saving import checkpoint
from jest_loader.files import BelongsTo, new_folder

# What tokenizers of Transformers are saved as.
_TOKENIZER_FILES = (
    "added_tokens.json", "chat_template.jinja", "merges.txt", "sentencepiece.bpe.model",
    "special_tokens_map.json", "spiece.model", "tokenizer.json", "tokenizer.model",
    "tokenizer_config.json", "vocab.json", "vocab.txt",
)  # fmt: skip


@dataclass(frozen=True)
class ExportConfig:
    """Write a trained model of open_clip as a folder that open_clip and clip_benchmark load."""

    checkpoint: Path
    """The folder of a run of `jest-loader train`, or a checkpoint file."""

    out: Path
    """Folder to write: the configuration, the weights, and the tokenizer where it has files."""

    ema: bool = False
    """Take the average of weights that training with optimizer.ema_decay keeps beside the last."""

    overwrite: bool = False
    """Replace an export that the folder holds."""


def export_command(config: ExportConfig) -> str:
    """Export a model; one line on how to load it.

    Raises:
        ValueError: as ``export_open_clip``, or if there is no such checkpoint.
    """
    path = config.checkpoint
    model = checkpoint.load_model(path, ema=config.ema)
    if not isinstance(model, OpenClipModel):
        raise ValueError(
            f"only models of open_clip can be exported to it, and that of {path} is the bundled "
            "one: open_clip has no text tower that averages words nor a tokenizer that hashes "
            "them; train with open_clip.name"
        )
    export_open_clip(model, config.out, overwrite=config.overwrite)
    return f"{config.out}: open_clip.create_model_and_transforms('local-dir:{config.out}')"


def export_open_clip(model: OpenClipModel, out: Path, *, overwrite: bool = False) -> None:
    """Write a model as open_clip's ``local-dir:`` reads it.

    Raises:
        ValueError: if ``out`` holds something else, or the tokenizer is not on this machine.
        OSError: if it cannot be written.
    """
    from safetensors.torch import save_file

    architecture = model.config
    assert isinstance(architecture, OpenClipArchitecture)  # No other builds such models.
    tokenizer = architecture.tokenizer().plain
    state = {name: value.cpu().contiguous() for name, value in model.open_clip_state().items()}
    with new_folder(out, overwrite=overwrite, files_at=_files_at) as folder:
        settings = {
            "model_cfg": _model_cfg(architecture, has_bias=model.logit_bias is not None),
            "preprocess_cfg": architecture.preprocess_cfg,
        }
        (folder / CONFIG_FILE).write_text(json.dumps(settings, indent=1) + "\n")
        try:
            save_file(state, folder / WEIGHTS_FILE)
        except Exception as error:  # It has one of its own, for a full disk too.
            raise OSError(
                f"{out} cannot be written, as where a disk is full; make room for it, or choose "
                f"another place ({shown(error)})"
            ) from error
        # Which safetensors lets nobody else read.
        shutil.copymode(folder / CONFIG_FILE, folder / WEIGHTS_FILE)
        if hasattr(tokenizer, "save_pretrained"):  # Open_clip's own has no files.
            tokenizer.save_pretrained(folder)


def _model_cfg(architecture: OpenClipArchitecture, *, has_bias: bool) -> dict[str, Any]:
    """With text in a tower of its own, as the weights are named, and a bias if they have one."""
    cfg = {**architecture.model_cfg, "custom_text": True}
    cfg.pop("init_logit_bias", None)
    return cfg | ({"init_logit_bias": 0.0} if has_bias else {})


def _files_at(path: Path) -> BelongsTo:
    if not (path / CONFIG_FILE).is_file():
        raise ValueError(
            f"only a folder with {CONFIG_FILE} can be overwritten, but {str(path)!r} has none; "
            "choose another output"
        )
    return {CONFIG_FILE, WEIGHTS_FILE, *_TOKENIZER_FILES}.__contains__
