"""The tokenizers of open_clip's models, without the network unless it was asked for."""

from collections.abc import Sequence
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from jest_loader.checks import shown
from jest_loader.clip.models.tokenizer import cut
from jest_loader.skipped import SkipRowsError

# Case, accents, digits, other scripts, punctuation, and more words than most contexts hold.
_PROBE = "A PHOTO of größe 3.14 日本, it's “here”! " * 20

# What changes the text or its ids, and nothing else.
_OPTIONS = ("clean", "strip_sep_token", "reduction_mask", "additional_special_tokens", "language")

_MOST_WORDS = 1 << 18
_MOST_LETTERS_OF_A_WORD = 64


class OpenClipTokenizer:
    """A tokenizer of open_clip, in time and memory that do not grow with the captions.

    Args:
        plain: Open_clip's ``SimpleTokenizer`` or ``HFTokenizer``.
    """

    def __init__(self, plain: Any) -> None:
        self.plain = plain
        if hasattr(plain, "bpe"):  # SimpleTokenizer's, which would keep all words of the data.
            plain.cache = _Words(plain.cache)

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Int64 [captions, context length].

        Raises:
            ValueError: as ``cut``.
            SkipRowsError: for captions that open_clip cannot take.
        """
        plain = self.plain
        side = getattr(getattr(plain, "tokenizer", None), "truncation_side", "right")
        kept = cut(captions, plain.context_length, from_end=side == "left")
        try:
            tokens: Tensor = plain(kept)
        except Exception as error:  # Its parsers, of HTML for one, may raise anything.
            if reasons := self._reasons(kept):
                raise SkipRowsError(reasons) from error
            raise
        return tokens

    def _reasons(self, captions: list[str]) -> dict[int, str]:
        reasons = {}
        for row, caption in enumerate(captions):
            try:
                self.plain([caption])
            except Exception as error:
                reasons[row] = f"the caption cannot be tokenized ({shown(error)})"
        return reasons


class _Words(dict[str, str]):
    """The tokens of words, of which the older half is forgotten when there are too many.

    Args:
        given: What is never forgotten: the special tokens.
    """

    def __init__(self, given: dict[str, str]) -> None:
        super().__init__(given)
        self._num_given = len(given)

    def __setitem__(self, word: str, tokens: str) -> None:
        if len(word) > _MOST_LETTERS_OF_A_WORD:
            return
        if len(self) >= _MOST_WORDS:
            for old in list(islice(self, self._num_given, _MOST_WORDS // 2)):
                self.pop(old, None)
        super().__setitem__(word, tokens)


def load_tokenizer(
    text_cfg: dict[str, Any], folder: Path | None, *, fetch: bool
) -> OpenClipTokenizer:
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
    return OpenClipTokenizer(tokenizer)


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


def identity_of(tokenizer: OpenClipTokenizer) -> str:
    """The tokenizer's kind, and a digest of what it makes of a text."""
    ids = tokenizer([_PROBE, _PROBE[:30]])
    digest = blake2b(ids.numpy().tobytes(), digest_size=8).hexdigest()
    return f"open_clip {type(tokenizer.plain).__name__} {digest}"
