"""A source of batches from WebDataset tars."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Unpack

from jest_loader.adapters.blocks import BlockSource, SourceKeywords
from jest_loader.adapters.blocks.paths import Urls
from jest_loader.adapters.tar.reader import TarShards
from jest_loader.adapters.tar.shard import LocalShard
from jest_loader.adapters.tar.urls import TARS


class TarSource(BlockSource):
    """Batches from WebDataset tars, read where they lie; nothing is unpacked.

    Neighbouring members whose names agree up to the first dot of the base name are an example:
    ``000/17.jpg`` and ``000/17.txt``. Names are taken without a leading ``./``, extensions in lower
    case. Hidden members (``._17.jpg`` of a Mac) and those without an extension are left out.

    What a column is read from, and what it holds:

    - ``"jpg;jpeg;png;webp"``: the first of these members that an example has, undecoded, as
      ``RaggedBytes``. So any extension that is not named below.
    - ``"txt"``: text in UTF-8, a list of str; ``"json"`` as well, undecoded.
    - ``"json:uid"``: a field of a JSON object, a list of str, int, float, bool or None;
      ``"json:a.b.0"`` is one further in. ``"json:uid:str"`` takes text alone, and ``"json:n:int"``
      and ``"json:n:float"`` are int64 and float64 [batch].
    - ``"npz:image_emb"``, ``"npy"``: an array of numbers [batch, ...], in the stored dtype. All
      must have the dtype and the shape of the first.
    - ``"cls"``: a whole number, int64 [batch].
    - ``"__key__"``: the name up to the first dot, a list of str.

    A column ``skip_reason`` says of each row why it cannot be used (a member is missing, a link,
    or unreadable), or ``""``; ``JestDataset`` and reference caches skip, count and name such rows.
    Their columns hold ``""``, None, zeros or no bytes. See ``BlockSource`` for epochs, shuffling
    and state.

    Each tar's headers are read once, and what they say is kept in a file ``NAME.tar.index`` beside
    it, if that folder can be written to. While a source or a batch is in use, replace a tar by
    renaming another over it or by deleting it; writing into it is an error.

    Args:
        urls: A folder of ``*.tar``, a pattern (``data/*.tar``), braces
            (``data/{00000..01023}.tar``), a file, or a list of these.
        columns: Names of columns, and what each is read from; None for ``image`` of pictures and
            ``caption`` of .txt, or of the field ``caption`` of .json, as far as the first tar has
            them.
        index: A folder to keep the indexes in, instead of beside the tars.
        **options: ``batch_size`` and the others of ``SourceOptions``.

    Raises:
        ValueError: if an argument is out of range, there are no tars, one is compressed, damaged,
            cut short or comes twice, its members are not grouped by example, or the first has none
            for a column of arrays. While iterating: if a tar was replaced or written to.
        FileNotFoundError: while iterating, if a tar is missing.
        OSError: if one cannot be read.
    """

    def __init__(
        self,
        urls: Urls,
        *,
        columns: Mapping[str, str] | None = None,
        index: str | PathLike[str] | None = None,
        **options: Unpack[SourceKeywords],
    ) -> None:
        folder = None if index is None else Path(index)
        if folder is not None and not folder.is_dir():
            raise ValueError(f"index must be a folder that is there, got {str(folder)!r}; make it")
        shards = [LocalShard(path) for path in TARS.at(urls)]
        super().__init__(TarShards(shards, columns, folder), **options)
