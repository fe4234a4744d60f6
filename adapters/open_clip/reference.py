"""Models of open_clip as embedders: the learner, and the reference or a cache of what it says."""

import hashlib
import logging
import math
import pickle
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from jest_loader.adapters.open_clip.options import JestOptions
from jest_loader.adapters.open_clip.rows import CsvRows, TrainRows, csv_fingerprint
from jest_loader.batch import Batch
from jest_loader.checks import shown
from jest_loader.embeddings import Embeddings
from jest_loader.ranks.ranks import ranks_of
from jest_loader.reference_cache import CachedReference, build
from jest_loader.scoring.calibration import Calibration
from jest_loader.scoring.models import EmbedFunction, FrozenReference
from jest_loader.scoring.runner import RunOptions
from jest_loader.scoring.sized import SizedEmbedder
from jest_loader.scoring.wrappers import unwrapped, without_compiler

_SCHEMES = ("hf-hub:", "local-dir:")  # Names that bring their weights.
# What open_clip raises of weights that are another model's.
_UNLOADABLE = (
    AssertionError, AttributeError, EOFError, KeyError, OSError, RuntimeError, ValueError,
    pickle.UnpicklingError,
)  # fmt: skip
_PROBE = ("A photo of 3 cats & 1 dog.", "Zürich, 東京: naïve café")


class Named(NamedTuple):
    """A model of open_clip and its weights.

    Args:
        model: Its name.
        weights: A tag or a file; empty where the name brings them.
    """

    model: str
    weights: str

    @classmethod
    def parse(cls, text: str) -> "Named":
        """Of ``MODEL:TAG_OR_FILE``.

        Raises:
            ValueError: if open_clip knows no such model or weights.
        """
        import open_clip

        if text.startswith(_SCHEMES):
            return cls(text, "")
        model, _, weights = text.partition(":")
        if open_clip.get_model_config(model) is None:
            near = get_close_matches(model, open_clip.list_models(), n=3) or ["ViT-B-32"]
            raise ValueError(
                f"--jest-reference must name a model of open_clip, got {shown(model)}; near it are "
                f"{', '.join(near)}"
            )
        tags = open_clip.list_pretrained_tags_by_model(model)
        if weights not in tags and not Path(weights).is_file():
            raise ValueError(
                "--jest-reference must name trained weights after a colon, a file or a tag of "
                f"{model} ({', '.join(tags) or 'it has none'}), got {shown(weights) or 'none'}"
            )
        return cls(model, weights)

    def load(self, args: Any) -> nn.Module:
        """The model on the trainer's device, in its precision.

        Raises:
            ValueError: if the weights are not the model's, or lack the bias of the sigmoid loss.
        """
        import open_clip

        bias = {"init_logit_bias": -10.0} if loss_of(args) == "sigmoid" else {}
        try:
            model: nn.Module = open_clip.create_model(
                self.model,
                self.weights or None,
                precision=args.precision,
                device=args.device,
                cache_dir=args.cache_dir,
                require_pretrained=True,
                **bias,
            )
        except _UNLOADABLE as error:
            raise ValueError(
                f"the weights of --jest-reference must be those of a {self.model}, but "
                f"{shown(self.weights or 'they')} cannot be loaded: {shown(error)}; name the model "
                "that they were trained as"
            ) from error
        if bias and not bool(model.logit_bias):  # Where the weights have none, open_clip puts 0.
            raise ValueError(
                "a reference must have a logit bias under --siglip, but "
                f"{shown(self.weights or self.model)} was trained with the softmax loss; choose "
                "one that was trained with the sigmoid loss"
            )
        return model


def reference_of(
    options: JestOptions, named: Named | None, rows: Any, args: Any, tokenizer: Any
) -> "Reference | None":
    """The reference that the options name, its cache built where that is not there yet.

    Args:
        options: The options.
        named: The model, if one is named.
        rows: The trainer's csv with the pictures as they are evaluated; None where there is no
            cache.
        args: The trainer's arguments.
        tokenizer: The learner's.

    Raises:
        ValueError: if it cannot be loaded or built.
    """
    if options.score == "hard_learner":
        return None
    size = options.reference_batch_size
    if named is None:
        return Reference(None, options.reference_cache, {}, size)
    import open_clip

    model = named.load(args)
    its_own = open_clip.get_tokenizer(
        named.model, cache_dir=args.cache_dir, context_length=args.force_context_length
    )
    reference = Reference(
        FrozenReference(
            model, embedding(args), trained_batch_size=size, **run_options(options, args)
        ),
        options.reference_cache,
        inputs_of(model, its_own),
        size,
    )
    if options.reference_cache is not None:
        build(
            options.reference_cache,
            CsvRows(rows, args),
            reference.live,
            identity=reference.inputs,
            progress=True,
        )
    return reference


class Reference(NamedTuple):
    """The reference before the learner is known.

    Args:
        live: Runs its model; None where there is a cache alone.
        cache: The folder of a cache, which is then used in its place.
        inputs: What the model takes.
        size: The batch size that it was trained at, if the options say so.
    """

    live: Any
    cache: str | None
    inputs: dict[str, str]
    size: int | None

    def embedder(self, args: Any, learners: dict[str, str]) -> SizedEmbedder:
        """What scores with it.

        Raises:
            ValueError: if it takes other inputs than the learner, whose batches it is given, or the
                cache is of something else.
        """
        if self.cache is not None:
            expect = {"data": csv_fingerprint(args), **learners}
            return CachedReference.open(
                self.cache,
                expect=expect,
                trained_batch_size=self.size,
                missing="skip",
                device=args.device,
            )
        for name, value in learners.items():
            if self.inputs[name] != value:
                raise ValueError(
                    f"the reference must take what open_clip_train makes for the learner, but its "
                    f"{name} are {self.inputs[name]} and the learner's {value}; choose another "
                    "reference"
                )
        embedder: SizedEmbedder = self.live
        return embedder


def fitted(reference: SizedEmbedder, rows: TrainRows, size: int) -> SizedEmbedder:
    """The reference with the scale and bias that fit sub-batches of ``size``, and the log says so.

    All ranks take what the first finds on its own rows, the first of the run.
    """
    ranks = ranks_of(None)
    reason, found = "", torch.full((2,), torch.nan, dtype=torch.float64)
    try:
        fit = reference.calibrated(rows, size).calibration
        assert fit is not None, "it is calibrated"
        found = torch.tensor(fit[:2], dtype=torch.float64)
    except ValueError as error:
        reason = f" ({error})"
    scale, bias = ranks.all_gather(found)[0].tolist()
    could = not math.isnan(scale)
    if ranks.rank == 0:
        logging.warning(  # noqa: LOG015 # As the trainer does.
            "it is not known what batch size the reference was trained at: its scale and bias %s "
            "sub-batches of %d%s; give --jest-reference-batch-size where you know it",
            f"are {scale:.3f} and {bias:.3f}, fitted to" if could else "could not be fitted to",
            size,
            reason,
        )
    return reference.with_calibration(Calibration(scale, bias, size)) if could else reference


def inputs_of(model: nn.Module, tokenizer: Any) -> dict[str, str]:
    """What a model takes, as text by name: its images and its tokens."""
    visual: Any = without_compiler(unwrapped(model)).visual
    taken = visual.preprocess_cfg
    size = taken["size"]
    height, width = (size, size) if isinstance(size, int) else size
    tokens = tokenizer(list(_PROBE))
    digest = hashlib.blake2b(tokens.numpy().tobytes(), digest_size=4).hexdigest()
    mean, std = ([round(value, 6) for value in taken[name]] for name in ("mean", "std"))
    return {
        "images": f"{height} x {width}, mean {mean}, std {std}",
        "tokens": f"{tokens.shape[1]} of vocabulary {digest}",
    }


def embedding(args: Any) -> EmbedFunction:
    """How one of open_clip's models embeds the trainer's batches, CoCa's among them."""
    from open_clip import get_input_dtype

    dtype = get_input_dtype(args.precision)

    def embed(model: Any, batch: Batch) -> Embeddings:
        return Embeddings(
            model.encode_image(batch["image"].to(dtype), normalize=True),
            model.encode_text(batch["text"], normalize=True),
            model.logit_scale.exp(),
            model.logit_bias,
        )

    return embed


def loss_of(args: Any) -> Any:
    """The contrastive loss that the trainer is going to make of its arguments."""
    is_sigmoid = args.siglip and not args.distill and "coca" not in args.model.lower()
    return "sigmoid" if is_sigmoid else "softmax"


def run_options(options: JestOptions, args: Any) -> RunOptions:
    """How a model embeds candidates: by default as many at once as it trains on, which fit."""
    return {
        "micro_batch_size": options.score_micro_batch_size or args.batch_size,
        "precision": options.score_precision,
    }
