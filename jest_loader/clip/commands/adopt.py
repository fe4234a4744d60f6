"""``jest-loader cache --from``: a cache of embeddings that somebody else computed."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jest_loader.adapters.mds import MdsSource
from jest_loader.adapters.zarr import ZarrSource
from jest_loader.clip.loading.columns import ShardSource, open_shards
from jest_loader.reference_cache import Manifest, PublishedEmbeddings, adopt
from jest_loader.reference_cache.published.joined import BY_ORDER, Duplicates

_OPTIONS = {
    "logit_scale": "--scale",
    "logit_bias": "--bias",
    "trained_batch_size": "--reference-batch-size",
    "fit_batch_size": "--fit-bias",
    "id_column": "--id-column",
    "duplicates='first'": "--duplicates first",
    "set normalize": "set --normalize",
    "join by order": "set --join-by order",
    "set overwrite": "set --overwrite",
}


@dataclass(frozen=True, kw_only=True)
class AdoptOptions:
    """Published embeddings in place of a reference that is run."""

    from_: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """Embeddings that somebody else computed, in place of a model: a folder of clip-retrieval
    (img_emb_0.npy, text_emb_0.npy, metadata_0.parquet), of .npz files with .parquet beside them as
    DataComp has, or of MDS shards or a Zarr group with embeddings as columns.
    """

    join_by: str = "uid"
    """With from: the data's column whose values the embeddings have as ids; or sample_id, the row
    number; or order, where the first example has the first row.
    """

    id_column: str | None = None
    """With from: the embeddings' column of ids; None takes the name of join_by, or, of the row
    number, the rows' order.
    """

    image_array: str = "l14_img"
    """With from: the array of .npz files, or the column of shards, with the images' embeddings."""

    text_array: str = "l14_txt"
    """With from: the array or column with the texts' embeddings."""

    scale: float | None = None
    """With from: the model's inverse temperature, which no file says; CLIP's is 100."""

    bias: float | None = None
    """With from: the model's logit bias; None for a softmax model, as most are."""

    fit_bias: int | None = None
    """With from: a sub-batch size over all processes; scale and bias are fitted for the sigmoid
    loss at it, on a sample of the data.
    """

    normalize: bool = False
    """With from: divide embeddings by their norm; otherwise those of another norm are refused."""

    duplicates: Duplicates = "error"
    """With from: whether published ids that come twice are an error, or the first row is taken."""

    def check_adoption(self) -> None:
        """Raise ``ValueError`` if options of an adoption are missing, or have no effect."""
        if self.from_ is None:
            for name in ("scale", "bias", "fit_bias", "id_column"):
                if getattr(self, name) is not None:
                    option = f"--{name.replace('_', '-')}"
                    raise ValueError(f"{option} has no effect without --from; set that too")
            if self.normalize:
                raise ValueError("--normalize has no effect without --from; set that too")
        elif self.scale is None:
            raise ValueError(
                "embeddings do not say the scale of their model's logits; set --scale, which is "
                "100 for CLIP and for the models of open_clip"
            )


def adopt_embeddings(
    options: AdoptOptions,
    data: Path,
    out: Path,
    *,
    other_column: str,
    trained_batch_size: int | None,
    chunk_rows: int,
    overwrite: bool,
) -> Manifest:
    """The cache at ``out`` of the embeddings that ``options`` names.

    Raises:
        ValueError: as ``adopt``, in the names of options.
    """
    assert options.from_ is not None, "it was checked"
    assert options.scale is not None, "it was checked"
    by_number = options.join_by in (BY_ORDER, "sample_id")
    try:
        source = _narrow(data, [other_column if by_number else options.join_by])
        return adopt(
            out,
            source,
            _published(options, options.from_, None if by_number else options.join_by),
            join_by=options.join_by,
            logit_scale=options.scale,
            logit_bias=options.bias,
            trained_batch_size=trained_batch_size,
            fit_batch_size=options.fit_bias,
            normalize=options.normalize,
            duplicates=options.duplicates,
            chunk_rows=chunk_rows,
            overwrite=overwrite,
            progress=True,
        )
    except ValueError as error:
        raise ValueError(_as_options(str(error))) from error


def _published(options: AdoptOptions, path: Path, same_name: str | None) -> PublishedEmbeddings:
    ids = options.id_column or same_name
    image, text = options.image_array, options.text_array
    if not any((path / name).is_file() for name in ("index.json", "zarr.json", ".zgroup")):
        return PublishedEmbeddings.open(path, id_column=ids, image=image, text=text)
    source = _narrow(path, [image, text, *([] if ids is None else [ids])])
    return PublishedEmbeddings.of_source(source, id_column=ids, image=image, text=text)


def _narrow(path: Path, columns: list[str]) -> ShardSource:
    """Shards in their order, with these columns alone."""
    whole = open_shards(path, batch_size=4096, shuffle=False, drop_last=False)
    kind = MdsSource if isinstance(whole, MdsSource) else ZarrSource
    return kind(path, columns=columns, batch_size=4096, shuffle=False, drop_last=False)


def _as_options(message: str) -> str:
    names = "|".join(map(re.escape, _OPTIONS))
    return re.sub(rf"(?<![\w./'-])({names})(?!\w)", lambda found: _OPTIONS[found[1]], message)
