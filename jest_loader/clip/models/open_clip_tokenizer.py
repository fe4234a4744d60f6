"""The tokenizers of open_clip's models, without the network unless it was asked for."""

from hashlib import blake2b
from pathlib import Path
from typing import Any

from jest_loader.clip.models.inputs import Tokenizer

# Case, accents, digits, other scripts, punctuation, and more words than most contexts hold.
_PROBE = "A PHOTO of größe 3.14 日本, it's “here”! " * 20

# What changes the text or its ids, and nothing else.
_OPTIONS = ("clean", "strip_sep_token", "reduction_mask", "additional_special_tokens", "language")


def load_tokenizer(text_cfg: dict[str, Any], folder: Path | None, *, fetch: bool) -> Tokenizer:
    """The tokenizer that open_clip would take for a model.

    Args:
        text_cfg: The text tower's part of the model's configuration.
        folder: Where the files of a Hugging Face tokenizer are; None looks into its local cache.
        fetch: Whether what is not here may be downloaded.

    Raises:
        ValueError: if it is not here, needs code that is not of Transformers, or has more ids than
            the model.
    """
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    context_length = text_cfg.get("context_length", 77)
    options = _options(text_cfg)
    published = text_cfg.get("hf_tokenizer_name")
    if not published:
        tokenizer: Any = SimpleTokenizer(context_length=context_length, **options)
        num_ids = tokenizer.vocab_size
    else:
        try:
            tokenizer = HFTokenizer(
                published if folder is None else str(folder),
                context_length=context_length,
                tokenizer_mode=text_cfg.get("tokenizer_mode"),
                local_files_only=not fetch,
                trust_remote_code=False,
                **options,
            )
        except (OSError, ValueError) as error:
            where = "this machine" if folder is None else str(folder)
            raise ValueError(
                f"the model needs the tokenizer {published}, which is not on {where} or needs code "
                "of its own; set the open_clip model's tokenizer to a folder with its files, or "
                f"fetch it once with `hf download {published} --include '*token*'`"
            ) from error
        except ImportError as error:
            raise ValueError(
                f"the tokenizer {published} needs the package transformers, which is not "
                "installed; pip install 'jest-loader[open_clip]'"
            ) from error
        num_ids = len(tokenizer.tokenizer)
    known = text_cfg.get("vocab_size", 49408)
    if num_ids > known:
        raise ValueError(
            f"the text tower must know all ids of its tokenizer, got {known} for {num_ids}; set "
            "vocab_size in the model's configuration"
        )
    return tokenizer  # type: ignore[no-any-return]


def _options(text_cfg: dict[str, Any]) -> dict[str, Any]:
    """What the configuration sets of the tokenizer; it may come from a stranger."""
    options = text_cfg.get("tokenizer_kwargs") or {}
    for name in options:
        if name not in _OPTIONS:
            raise ValueError(
                f"tokenizer_kwargs of a model's configuration may set {', '.join(_OPTIONS)}, got "
                f"{name!r}; others could run code or read files, so leave it out"
            )
    return dict(options)


def identity_of(tokenizer: Tokenizer) -> str:
    """The tokenizer's kind, and a digest of what it makes of a text."""
    ids = tokenizer([_PROBE, _PROBE[:30]])
    digest = blake2b(ids.numpy().tobytes(), digest_size=8).hexdigest()
    return f"open_clip {type(tokenizer).__name__} {digest}"
