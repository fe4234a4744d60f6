"""Finding open_clip's configuration of a model, and its file of weights."""

import json
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from jest_loader.checks import shown
from jest_loader.clip.config.open_clip import OpenClipConfig
from jest_loader.files import read_regular

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"

_MOST_BYTES = 1 << 24
_PIXELS = ("mean", "std", "interpolation", "resize_mode")


class ModelFiles(NamedTuple):
    """What open_clip builds a model from.

    Args:
        model_cfg: Sizes of the towers.
        preprocess_cfg: How images are resized and normalised, where that is known.
        folder: The folder that was named, if it was one.
        weights: The file of weights to start from; None starts from random ones.
    """

    model_cfg: dict[str, Any]
    preprocess_cfg: dict[str, Any]
    folder: Path | None = None
    weights: Path | None = None


def find_model(options: OpenClipConfig) -> ModelFiles:
    """What open_clip builds the named model from.

    Raises:
        ValueError: if there is no such model, file or tag, or open_clip is not installed.
    """
    assert options.name is not None
    path = Path(options.name)
    if path.is_dir():
        found = _folder(path)
    elif path.suffix == ".json":
        found = _read(path)
    else:
        found = _built_in(options.name.replace("/", "-"), options.pretrained)
    if options.pretrained is not None and found.weights is None:
        raise ValueError(
            "the open_clip model's pretrained is for open_clip's own names, got "
            f"{options.name}; set its checkpoint"
        )
    return found if options.checkpoint is None else found._replace(weights=options.checkpoint)


def _folder(path: Path) -> ModelFiles:
    found = _read(path / CONFIG_FILE)
    files = [
        file for kind in ("safetensors", "bin", "pth") for file in sorted(path.glob(f"*.{kind}"))
    ]
    own = [file for file in files if file.name.startswith("open_clip")]
    return found._replace(folder=path, weights=next(iter(own + files), None))


def _read(path: Path) -> ModelFiles:
    try:
        config = json.loads(read_regular(path, _MOST_BYTES))
    except Exception as error:  # nested too deeply is no ValueError
        raise ValueError(f"{path} must be a JSON file: {shown(error)}") from error
    model_cfg = config.get("model_cfg", config) if isinstance(config, dict) else {}
    cfg = model_cfg if isinstance(model_cfg, dict) else {}
    preprocess_cfg = config.get("preprocess_cfg", {}) if isinstance(config, dict) else {}
    kinds = {"embed_dim": int, "vision_cfg": dict, "text_cfg": dict}
    wrong = [part for part, kind in kinds.items() if not isinstance(cfg.get(part), kind)]
    if wrong or not isinstance(preprocess_cfg, dict):
        raise ValueError(
            f"{path} must be the configuration of a model of open_clip, but has no "
            f"{[*wrong, 'preprocess_cfg'][0]} of its kind; take one of its model_configs as an "
            "example"
        )
    return ModelFiles(cfg, preprocess_cfg)


def _built_in(name: str, tag: str | None) -> ModelFiles:
    import open_clip
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg

    model_cfg = open_clip.get_model_config(name)
    if model_cfg is None:
        near = get_close_matches(name, open_clip.list_models(), n=3) or ["ViT-B-32"]
        raise ValueError(
            "the open_clip model's name must be a model of open_clip, a JSON file or a folder, got "
            f"{name!r}; near it are {', '.join(near)}"
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    published = [get_pretrained_cfg(name, each) for each in tags]
    if tag is None:
        return ModelFiles(
            model_cfg, _common_preprocessing([{k: cfg[k] for k in _PIXELS} for cfg in published])
        )
    chosen = get_pretrained_cfg(name, tag)
    if not chosen:
        raise ValueError(
            f"the open_clip model's pretrained must be a tag of {name}, got {tag!r}; it has "
            f"{', '.join(tags) or 'none'}"
        )
    if chosen.get("quick_gelu", False) != model_cfg.get("quick_gelu", False):
        raise ValueError(
            f"the weights {tag} of {name} were trained with another kind of GELU; set "
            f"the open_clip model's name to {_other_gelu(name)}"
        )
    weights = Path(download_pretrained(chosen))
    return ModelFiles(model_cfg, {key: chosen[key] for key in _PIXELS}, weights=weights)


def _other_gelu(name: str) -> str:
    suffix = "-quickgelu"
    return name.removesuffix(suffix) if name.endswith(suffix) else name + suffix


def _common_preprocessing(published: list[dict[str, Any]]) -> dict[str, Any]:
    """The preprocessing of all published weights of a name; empty if they differ."""
    return published[0] if published and all(cfg == published[0] for cfg in published) else {}
