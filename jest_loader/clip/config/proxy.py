"""Options of the small model that scores in the learner's place."""

from dataclasses import dataclass, replace

from jest_loader.clip.config.model import ModelConfig


@dataclass(frozen=True)
class ProxyConfig:
    """Sizes of the online proxy, where they are not the model's, and how fast it learns."""

    patch_size: int = 16
    """Pixels of a patch."""

    vision_width: int = 64
    """Width of the image tower."""

    vision_depth: int = 2
    """Blocks of the image tower."""

    text_width: int = 64
    """Width of the text tower."""

    text_depth: int = 0
    """Blocks of the text tower; 0 averages word embeddings."""

    heads: int = 4
    """Attention heads of both towers."""

    embed_dim: int = 64
    """Width of the joint embedding."""

    lr: float = 1e-3
    """Peak learning rate; it warms up and falls as the model's, and all else of the optimizer is
    as the model's too.
    """

    def model(self, learner: ModelConfig) -> ModelConfig:
        """The proxy's sizes, for the images and tokens of the learner.

        Raises:
            ValueError: if they do not go together.
        """
        try:
            return replace(
                learner,
                patch_size=self.patch_size,
                vision_width=self.vision_width,
                vision_depth=self.vision_depth,
                text_width=self.text_width,
                text_depth=self.text_depth,
                heads=self.heads,
                embed_dim=self.embed_dim,
            )
        except ValueError as error:
            raise ValueError(f"selection.proxy cannot be built: {error}") from error
