"""Which model of open_clip, and where it comes from."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class OpenClipConfig:
    """A model of open_clip, in place of the bundled one."""

    name: str | None = None
    """One of open_clip's model names (ViT-B-32), a JSON file with the configuration of a model, or
    a folder with open_clip_config.json and weights. None takes none.
    """

    checkpoint: Path | None = None
    """A local file of weights to start from, as open_clip writes or publishes them; read without
    unpickling objects.
    """

    pretrained: str | None = None
    """A tag of the weights that open_clip knows for the name, to start from. The one option that
    reads from the network: the weights, and the tokenizer where it is not here yet.
    """

    tokenizer: Path | None = None
    """A folder with the files of a Hugging Face tokenizer, for models that need one (SigLIP's do),
    where neither the name's folder nor the local cache of Hugging Face has it.
    """

    def __post_init__(self) -> None:
        for option in ("checkpoint", "pretrained", "tokenizer"):
            if self.name is None and getattr(self, option) is not None:
                raise ValueError(
                    f"the open_clip model's {option} has no effect without its name; set that too"
                )
        if self.checkpoint is not None and self.pretrained is not None:
            raise ValueError(
                "the open_clip model's checkpoint and pretrained both name weights; set one of them"
            )
