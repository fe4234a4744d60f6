"""A cache of embeddings that somebody else computed: no reference is run."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from pathlib import Path

from jest_loader.checks import flag, is_number, shown, whole
from jest_loader.protocols import CountedSource, Source
from jest_loader.reference_cache.build import build
from jest_loader.reference_cache.chunk_records import BATCH_SIZE
from jest_loader.reference_cache.format import Manifest
from jest_loader.reference_cache.identity import PUBLISHED, identity_of
from jest_loader.reference_cache.published.joined import Duplicates, join
from jest_loader.reference_cache.published.published import PublishedEmbeddings
from jest_loader.reference_cache.published.rows import JoinedRows, PublishedReference
from jest_loader.scoring.calibration import calibrate

_LOG = logging.getLogger(__name__)
_SAMPLE_ROWS = 4096  # Looked at before anything is written, and what a bias is fitted to.


def adopt(  # noqa: PLR0913
    path: str | Path,
    source: Source,
    published: PublishedEmbeddings,
    *,
    join_by: str,
    logit_scale: float,
    logit_bias: float | None = None,
    trained_batch_size: int | None = None,
    fit_batch_size: int | None = None,
    normalize: bool = False,
    duplicates: Duplicates = "error",
    identity: Mapping[str, str] | None = None,
    id_column: str = "sample_id",
    chunk_rows: int = 1 << 15,
    overwrite: bool = False,
    progress: bool = False,
) -> Manifest:
    """Keep published embeddings of every example of a data set as the cache ``path``.

    Ids are joined, and what is missing on either side is counted and logged, before anything is
    written. It may be stopped at any moment; the same call joins again, and goes on where it was.
    The cache is one as ``build`` makes, but that its rows are in the order of the published ones,
    examples without embeddings at the end: those are missing, and so are zeros and rows that are
    not finite.

    Args:
        path: The folder to make.
        source: Batches that hold each example once, with its sample id and the column to join by.
            Of MDS and Zarr read no others: ``columns=[...]``.
        published: The embeddings.
        join_by: The source's column, text or whole numbers, whose values ``published`` has as ids;
            or ``"order"``: the first example has the first row, and there are as many.
        logit_scale: The model's inverse temperature: 100 for CLIP and open_clip's models, which end
            at that limit.
        logit_bias: Its logit bias; None for a softmax model, as most are.
        trained_batch_size: With a bias, how many examples were each other's negatives when the
            model was trained; recorded.
        fit_batch_size: A sub-batch size over all ranks: ``calibrate`` finds the scale and bias of
            least sigmoid loss at it on a sample of 4,096 examples, in place of those above. The
            size is recorded, as that of a model that was trained at it.
        normalize: Whether to divide rows by their norm; if not, rows of another norm are refused.
        duplicates: Of published ids that come twice, ``"error"`` refuses them and ``"first"`` takes
            the first row of each.
        identity: What else the cache is made from, as for ``build``, such as ``model``.
        id_column: The source's column of sample ids, any int64.
        chunk_rows: Rows of a chunk file.
        overwrite: Whether to delete a cache at ``path`` first.
        progress: Whether to show progress bars on stderr.

    Returns:
        What the cache holds.

    Raises:
        ValueError: as ``build`` and ``calibrate``, or if no id of the data is found, published ids
            come twice, norms are not 1, files are damaged, or options contradict each other.
        ModuleNotFoundError: if ids are in parquet files and pyarrow is not installed.
    """
    _check_logits(logit_scale, logit_bias, trained_batch_size, fit_batch_size)
    normalize = flag("normalize", normalize)
    with _bar(source, shown=progress) as advance:
        joined = join(
            source,
            published,
            join_by=join_by,
            id_column=id_column,
            duplicates=duplicates,
            advance=advance,
        )
    is_whole = joined.num_lacking == joined.num_published_again == 0
    _LOG.log(logging.INFO if is_whole else logging.WARNING, "%s", joined.described(join_by))
    try:
        rows = JoinedRows(published, joined, normalize=normalize)
        reference, size = _reference(rows, logit_scale, logit_bias, fit_batch_size)
        known = identity_of(source, reference, None)
        known |= _logit_identity(reference, size if size is not None else trained_batch_size)
        known[PUBLISHED] = f"{published.fingerprint()} {joined.fingerprint()}"
        known |= {"joined_by": join_by, "norms": "divided by" if normalize else "as they were"}
        return build(
            path,
            rows,
            reference,
            identity=known | dict(identity or {}),
            chunk_rows=chunk_rows,
            overwrite=overwrite,
            progress=progress,
        )
    finally:
        published.close()


def _reference(
    rows: JoinedRows, scale: float, bias: float | None, fit_batch_size: int | None
) -> tuple[PublishedReference, int | None]:
    """What embeds the rows, and the batch size that its bias was fitted at, if it was.

    A sample is read whether or not, so that embeddings of another norm are refused at once.
    """
    sample = rows.sample(_SAMPLE_ROWS)
    if all(sample["reason"]):
        raise ValueError(
            f"some embeddings must be usable, but of a sample of {len(sample['reason'])} none is "
            f"(of the first: {sample['reason'][0]}); take other files"
        )
    if fit_batch_size is None:
        return PublishedReference(scale, bias), None
    found = calibrate(PublishedReference(scale, None).embed(sample), fit_batch_size)
    return PublishedReference(found.logit_scale, found.logit_bias), found.batch_size


def _logit_identity(reference: PublishedReference, size: int | None) -> dict[str, str]:
    """What a cache records of scale and bias, so that others are not taken for the same cache."""
    scale, bias = reference.logit_scale, reference.logit_bias
    known = {"loss": "softmax" if bias is None else "sigmoid", "logits": f"{scale!r}, {bias!r}"}
    return known if size is None else known | {BATCH_SIZE: str(size)}


def _check_logits(
    scale: float, bias: float | None, trained_batch_size: int | None, fit_batch_size: int | None
) -> None:
    if not is_number(scale) or not 0 < scale < float("inf"):
        raise ValueError(
            f"logit_scale must be a positive number, got {shown(repr(scale))}; CLIP's is 100"
        )
    if bias is not None and not (is_number(bias) and isfinite(bias)):
        raise ValueError(f"logit_bias must be a finite number or None, got {shown(repr(bias))}")
    if fit_batch_size is not None:
        whole("fit_batch_size", fit_batch_size, 2)
        if bias is not None or trained_batch_size is not None:
            raise ValueError(
                "fit_batch_size finds a bias, in place of logit_bias and trained_batch_size, got "
                f"{bias} and {trained_batch_size}; leave those out"
            )
    if trained_batch_size is not None:
        whole("trained_batch_size", trained_batch_size, 1)
        if bias is None:
            raise ValueError(
                f"trained_batch_size belongs to a logit_bias, got {trained_batch_size} without "
                "one; give the bias too, or fit_batch_size in place of both"
            )


@contextmanager
def _bar(source: Source, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of ids just read; shows a bar on stderr."""
    if not shown:
        yield lambda _: None
        return
    from tqdm import tqdm

    total = source.num_examples if isinstance(source, CountedSource) else None
    with tqdm(total=total, unit=" rows", desc="ids") as bar:
        yield bar.update
