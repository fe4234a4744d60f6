"""A model of open_clip with the trainer's interface; a ViT also runs at other resolutions."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from jest_loader.clip.models.flexi import resize_image, resize_patches, resize_positions
from jest_loader.clip.models.inputs import ModelInputs
from jest_loader.clip.models.model import ClipModel


class OpenClipModel(ClipModel):
    """Open_clip's two towers. The image tower takes uint8 images and normalises them itself.

    Args:
        config: What it takes, and its width.
        inner: A ``CustomTextCLIP`` with a bias, whose towers it takes.
        mean: Of each colour, in [0, 1]; subtracted from pixels.
        std: Of each colour; divides what is left.
        has_bias: Whether it keeps the bias.
    """

    image_tower: "_ImageTower"
    text_tower: Any

    def __init__(
        self,
        config: ModelInputs,
        inner: Any,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        has_bias: bool,
    ) -> None:
        super().__init__(config)
        self.image_tower = _ImageTower(inner.visual, mean, std)
        self.text_tower = inner.text
        self._add_logit_parameters(
            inner.logit_scale.detach(), inner.logit_bias.detach() if has_bias else None
        )

    def open_clip_state(self) -> dict[str, Tensor]:
        """The weights under their names in open_clip's ``CustomTextCLIP``."""
        state = {
            f"visual.{name}": value for name, value in self.image_tower.visual.state_dict().items()
        }
        state |= {f"text.{name}": value for name, value in self.text_tower.state_dict().items()}
        state["logit_scale"] = self.log_scale.detach()[0]
        if self.logit_bias is not None:
            state["logit_bias"] = self.logit_bias.detach()[0]
        return state

    def checkpoint_activations(self) -> None:
        """Turn on open_clip's own activation checkpointing in both towers."""
        self.image_tower.visual.set_grad_checkpointing(True)
        self.text_tower.set_grad_checkpointing(True)


class _Grid(NamedTuple):
    """The square grid of a ViT's patches.

    Args:
        positions: Name of the parameter of position embeddings; None if the tower resizes them
            itself.
        side: Patches in a row.
        patch_size: Height and width of a patch, pixels.
    """

    positions: str | None
    side: int
    patch_size: int


class _ImageTower(nn.Module):
    mean: Tensor
    std: Tensor

    def __init__(self, visual: Any, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.visual = visual
        self.grid = _grid(visual)
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def forward(
        self, image: Tensor, patch_size: int | None = None, image_size: int | None = None
    ) -> Tensor:
        pixels = (image / 255 - self.mean) / self.std
        features: Tensor
        if patch_size is None and image_size is None:
            features = self.visual(pixels)
            return features
        if self.grid is None:
            raise ValueError(
                f"images can be scored at another resolution by a ViT with learned positions, and "
                f"{type(self.visual).__name__} is none that is known; leave score_patch_size and "
                "score_image_size at None"
            )
        if image_size is not None:
            if not 1 <= image_size <= pixels.shape[-1]:
                raise ValueError(
                    "score_image_size must be from 1 to the model's image size, got "
                    f"{image_size} and {pixels.shape[-1]}"
                )
            pixels = resize_image(pixels, image_size)
        size = self.grid.patch_size if patch_size is None else patch_size
        if size < 1 or any(side % size != 0 for side in pixels.shape[-2:]):
            raise ValueError(
                f"patch_size must divide the images, got {size} and {tuple(pixels.shape[-2:])}"
            )
        rows, columns = (side // size for side in pixels.shape[-2:])
        # Resizing the patches by the transposed matrix does what resizing the kernel does, and the
        # tower's own code can run, on fewer patches of its own size.
        pixels = resize_patches(pixels, size, self.grid.patch_size)
        positions = self._positions(self.grid, rows, columns)
        features = functional_call(self.visual, positions, (pixels,))
        return features

    def _positions(self, grid: _Grid, rows: int, columns: int) -> dict[str, Tensor]:
        """The tower's positions by name; those of class and register tokens are not resized."""
        if grid.positions is None:
            return {}
        given = self.visual.get_parameter(grid.positions)
        table = given.flatten(0, -2)
        others, places = table.tensor_split([len(table) - grid.side**2])
        table = torch.cat([others, resize_positions(places, rows, columns)])
        return {grid.positions: table.view(*given.shape[:-2], *table.shape)}


def _grid(visual: Any) -> _Grid | None:
    """The grid of a ViT whose positions can be resized; None for any other image tower."""
    from open_clip.transformer import VisionTransformer
    from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer

    name: str | None
    if isinstance(visual, VisionTransformer):
        name, sides, patch = "positional_embedding", visual.grid_size, visual.patch_size
    else:
        trunk: Any = getattr(visual, "trunk", None)
        # A subclass may do something else with its positions.
        if type(trunk) is not TimmVisionTransformer or trunk.pos_embed is None:
            return None
        trunk.patch_embed.strict_img_size = False  # Lets other sizes in.
        name, sides, patch = (
            None if trunk.dynamic_img_size else "trunk.pos_embed",
            trunk.patch_embed.grid_size,
            trunk.patch_embed.patch_size,
        )
    return _Grid(name, sides[0], patch[0]) if len(set(sides)) == len(set(patch)) == 1 else None
