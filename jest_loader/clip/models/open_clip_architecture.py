"""What builds a model of open_clip for the trainer."""

import logging
import math
import zipfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jest_loader.checks import shown
from jest_loader.clip.config.open_clip import OpenClipConfig
from jest_loader.clip.models.open_clip_model import OpenClipModel
from jest_loader.clip.models.open_clip_source import find_model
from jest_loader.clip.models.open_clip_tokenizer import (
    OpenClipTokenizer,
    identity_of,
    load_tokenizer,
)
from jest_loader.clip.models.torch_file import check_records
from jest_loader.protocols import Loss
from jest_loader.training_state import check_weights

_LOG = logging.getLogger(__name__)
_OTHER_WEIGHTS = {".safetensors", ".npy", ".npz"}
"""Endings by which open_clip knows weights that torch did not write."""


@dataclass(frozen=True, eq=False)
class OpenClipArchitecture:
    """A contrastive model of open_clip: what builds it, and what it takes.

    Args:
        name: As the user named it.
        model_cfg: Open_clip's configuration of it.
        preprocess_cfg: All fields of open_clip's ``PreprocessCfg``.
        tokenizer_folder: Where the files of its tokenizer are; None has open_clip look for them.
        fetch: Whether its tokenizer may be downloaded.
        weights: The file that ``build`` starts from; None starts from random weights.

    Raises:
        ValueError: if it is no model that the trainer can train.
    """

    name: str
    model_cfg: dict[str, Any]
    preprocess_cfg: dict[str, Any]
    tokenizer_folder: str | None = None
    fetch: bool = False
    weights: str | None = None

    def __post_init__(self) -> None:
        if find_spec("open_clip") is None:
            raise ValueError(
                f"{self.name} is a model of open_clip, which is not installed; "
                "pip install 'jest-loader[open_clip]'"
            )
        unknown = [
            kind
            for kind, is_it in {
                "a captioning model": "multimodal_cfg" in self.model_cfg,
                "a model whose text tower is of Hugging Face": bool(
                    self.model_cfg["text_cfg"].get("hf_model_name")
                ),
                "a model of images that are not square": len(set(self._sides)) > 1,
            }.items()
            if is_it
        ]
        timm_name = self.model_cfg["vision_cfg"].get("timm_model_name", "")
        if ":" in str(timm_name):  # Timm would fetch hf-hub:name from the network.
            raise ValueError(
                f"timm_model_name of {self.name} must be a name of timm's own, got {timm_name!r}"
            )
        if unknown:
            raise ValueError(
                "the open_clip model's name must be that of two towers of open_clip's own, but "
                f"{self.name} is {unknown[0]}; take another, such as ViT-B-32"
            )

    def saved(self) -> dict[str, Any]:
        """What a checkpoint keeps of it: arguments to make it from again, as JSON values."""
        return asdict(self) | {"weights": None, "fetch": False}

    @property
    def _sides(self) -> tuple[int, ...]:
        size = self.model_cfg["vision_cfg"].get("image_size", 224)
        return tuple(size) if isinstance(size, list | tuple) else (size,)

    @property
    def image_size(self) -> int:
        """Height and width of an image, pixels."""
        return self._sides[0]

    @property
    def channels(self) -> int:
        """Open_clip's models take colour."""
        return 3

    @property
    def context_length(self) -> int:
        """Tokens per caption."""
        return int(self.model_cfg["text_cfg"].get("context_length", 77))

    @property
    def embed_dim(self) -> int:
        """Width of the joint embedding."""
        return int(self.model_cfg["embed_dim"])

    @property
    def preprocessing(self) -> str:
        """How open_clip makes the image tower's input."""
        cfg = self.preprocess_cfg
        size = f"3 x {self.image_size} x {self.image_size}"
        return (
            f"{size} by open_clip ({cfg['resize_mode']}, {cfg['interpolation']}, fill "
            f"{cfg['fill_color']}, mean {list(cfg['mean'])}, std {list(cfg['std'])})"
        )

    @cached_property
    def tokenization(self) -> str:
        """The kind of tokenizer, and a digest of what it does."""
        return identity_of(self.tokenizer())

    @cached_property
    def _tokenizer(self) -> OpenClipTokenizer:
        folder = None if self.tokenizer_folder is None else Path(self.tokenizer_folder)
        return load_tokenizer(self.model_cfg["text_cfg"], folder, fetch=self.fetch)

    def tokenizer(self) -> OpenClipTokenizer:
        """Open_clip's own.

        Raises:
            ValueError: as ``load_tokenizer``.
        """
        return self._tokenizer

    def transform(self) -> Callable[[Any], Tensor]:
        """Open_clip's resizing and cutting, to the bit; the model itself normalises."""
        from open_clip.transform import PreprocessCfg, image_transform_v2
        from torchvision.transforms import Compose, Normalize, PILToTensor

        steps = image_transform_v2(PreprocessCfg(**self.preprocess_cfg), is_train=False).transforms
        assert isinstance(steps[-1], Normalize)  # After the one that makes a tensor.
        transform: Callable[[Any], Tensor] = Compose([*steps[:-2], PILToTensor()])
        return transform

    def forward_flops(self, patch_size: int | None = None, image_size: int | None = None) -> int:
        """Flops of embedding one pair, counted on a model without weights.

        Raises:
            ValueError: if the image tower cannot run at that resolution.
        """
        return _counted_flops(self, patch_size, image_size)

    def build(self, loss: Loss, *, logit_scale: float, logit_bias: float | None) -> OpenClipModel:
        """A model to train, from ``weights`` if there are any; the log says if there are none.

        Args:
            loss: A softmax model has no bias.
            logit_scale: Inverse temperature at the start, unless the weights have one.
            logit_bias: Logit bias at the start, unless the weights have one; None refuses those
                that have none.

        Raises:
            ValueError: if the weights cannot be read, or are another model's.
        """
        inner = self._inner()
        if self.weights is None:
            _LOG.warning("%s starts from random weights; it names none to start from", self.name)
            torch.nn.init.constant_(inner.logit_scale, math.log(logit_scale))
        else:
            _load_weights(inner, Path(self.weights), self.name)
        # Open_clip gives weights that have no bias one of 0.
        if loss == "sigmoid" and (self.weights is None or not inner.logit_bias.any()):
            if logit_bias is None:
                raise ValueError(
                    f"the sigmoid loss needs a logit bias, which the weights of {self.name} have "
                    "not; use the softmax loss, or train it with the sigmoid loss first"
                )
            torch.nn.init.constant_(inner.logit_bias, logit_bias)
        return self._as_learner(inner, loss)

    def empty(self, loss: Loss) -> OpenClipModel:
        """The model of ``build``, whose weights are still to be loaded."""
        return self._as_learner(self._inner(), loss)

    def _as_learner(self, inner: Any, loss: Loss) -> OpenClipModel:
        mean, std = self.preprocess_cfg["mean"], self.preprocess_cfg["std"]
        return OpenClipModel(self, inner, mean, std, has_bias=loss == "sigmoid")

    def _inner(self) -> Any:
        """Open_clip's model, with text in a tower of its own and always with a bias."""
        from open_clip import CustomTextCLIP

        cfg: dict[str, Any] = {"init_logit_bias": 0.0, **deepcopy(self.model_cfg)}
        cfg.pop("custom_text", None)
        if "timm_model_name" in cfg["vision_cfg"]:
            cfg["vision_cfg"]["timm_model_pretrained"] = False  # Downloads nothing.
        try:
            return CustomTextCLIP(**cfg)
        except Exception as error:  # Whatever values of other kinds make open_clip or timm raise.
            raise ValueError(
                f"open_clip cannot build {self.name}: {shown(error)}; mend its configuration"
            ) from error


@lru_cache(maxsize=32)
def resolve(options: OpenClipConfig) -> OpenClipArchitecture:
    """The named model.

    Raises:
        ValueError: if there is no such model, or none that the trainer can train.
    """
    assert options.name is not None
    if find_spec("open_clip") is None:
        return OpenClipArchitecture(options.name, {}, {})  # Says what to install.
    from open_clip.transform import PreprocessCfg

    found = find_model(options)
    size = found.model_cfg["vision_cfg"].get("image_size", 224)
    preprocess = asdict(PreprocessCfg()) | found.preprocess_cfg | {"size": size}
    folder = options.tokenizer or found.folder
    return OpenClipArchitecture(
        options.name,
        found.model_cfg,
        preprocess,
        None if folder is None else str(folder),
        fetch=options.pretrained is not None,
        weights=None if found.weights is None else str(found.weights),
    )


def _load_weights(inner: Any, path: Path, name: str) -> None:
    from open_clip import load_checkpoint

    if not path.is_file():
        raise ValueError(
            f"no weights at {path}; the open_clip model's checkpoint must name a local file"
        )
    try:
        if zipfile.is_zipfile(path):
            check_records(path)
        elif path.suffix not in _OTHER_WEIGHTS:
            raise ValueError(
                "it is no zip file, as torch has written them since release 1.6; load it with an "
                "old one and save it again"
            )
        load_checkpoint(inner, str(path), strict=True, weights_only=True)
        check_weights(inner, inner.state_dict(), "a file of weights")
    except Exception as error:
        reason = shown(str(error).strip().partition("\n")[0])
        raise ValueError(
            f"{path} must hold weights of {name} that are read without unpickling objects, but "
            f"open_clip cannot load them ({type(error).__name__}: {reason})"
        ) from error


@lru_cache(maxsize=64)
def _counted_flops(
    architecture: OpenClipArchitecture, patch_size: int | None, image_size: int | None
) -> int:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = architecture.empty("softmax").eval()
        size = architecture.image_size
        image = torch.zeros(1, 3, size, size, dtype=torch.uint8)
        text = torch.zeros(1, architecture.context_length, dtype=torch.int64)
    # With gradients and plain attention, since the counter does not know the fused kernels.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.embed_image(image, patch_size, image_size)
        model.embed_text(text)
    return int(counter.get_total_flops())
