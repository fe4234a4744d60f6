"""Published embeddings that are damaged, do not fit, or are no such thing: one sentence each."""

import zipfile

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from jest_loader.reference_cache import PublishedEmbeddings, adopt
from tests.reference_cache.published_files import (
    batches,
    pairs,
    uids,
    write_datacomp,
    write_retrieval,
)

ROWS = 60
EDGES = [0, 20, 40, ROWS]


@pytest.fixture
def folder(tmp_path):
    write_retrieval(tmp_path / "in", *pairs(ROWS), uids(ROWS), EDGES, flat=True)
    return tmp_path / "in"


@pytest.fixture
def archives(tmp_path):
    image, text = pairs(ROWS)
    write_datacomp(tmp_path / "in", image, text, uids(ROWS), EDGES)
    return tmp_path / "in"


def adopted(folder, ids=None, **changes):
    """An adoption that must be refused before anything is written."""
    names = ("id_column", "image", "text")
    options = {"join_by": "uid", "logit_scale": 100.0, **changes}
    try:
        opened = PublishedEmbeddings.open(
            folder, **{name: options.pop(name) for name in names if name in options}
        )
        adopt(folder.parent / "cache", batches(ids or uids(ROWS)), opened, **options)
    finally:
        assert not (folder.parent / "cache").exists()


def save(path, values):
    np.save(path, values, allow_pickle=values.dtype.hasobject)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((20, 16), None), r"img_emb_1.npy must hold .* holds object of \(20, 16"),
        (np.zeros((20, 16), "i4"), r"holds int32 of \(20, 16\)"),
        (np.zeros((20, 16), "c8"), r"holds complex64"),
        (np.zeros((20, 16), "U3"), r"holds <U3"),
        (np.zeros(20, "f4"), r"holds float32 of \(20,\)"),
        (np.zeros((20, 2, 8), "f4"), r"holds float32 of \(20, 2, 8\)"),
        (np.zeros((0, 16), "f4"), r"holds float32 of \(0, 16\)"),
        (np.zeros((20, 16), "f4", order="F"), r"float32 of \(20, 16\) by column"),
        (np.zeros((19, 16), "f4"), r"must have the same rows and width, .* \(19, 16\) and"),
        (np.zeros((20, 15), "f4"), r"must have the same rows and width, .* \(20, 15\) and"),
    ],
    ids=[
        "objects", "whole numbers", "complex", "text", "a vector", "views", "empty", "by column",
        "another count", "another width",
    ],
)  # fmt: skip
def test_arrays_of_another_kind_are_refused(folder, values, message):
    save(folder / "img_emb_1.npy", values)
    with pytest.raises(ValueError, match=message):
        adopted(folder)


def test_widths_that_differ_between_parts_are_refused(folder):
    for name in ("img_emb", "text_emb"):
        save(folder / f"{name}_2.npy", np.ones((20, 8), "f4"))
    with pytest.raises(ValueError, match=r"one width, but .*_0.npy has 16 and .*_2.npy has 8"):
        adopted(folder)


@pytest.mark.parametrize("cut", [-1, 64, 4, 0], ids=["a byte", "the rows", "the header", "all"])
def test_a_part_that_was_cut_short_is_refused(folder, cut):
    part = folder / "text_emb_1.npy"
    part.write_bytes(part.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"text_emb_1.npy must .* fetch it again"):
        adopted(folder)


def test_a_header_that_promises_more_allocates_nothing(folder):
    part = folder / "text_emb_1.npy"
    rows = f"{(1 << 40, 16)}"
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {rows}, }}".ljust(117) + "\n"
    part.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
    with pytest.raises(
        ValueError, match=r"must have 70368744177792 bytes by its header|must have 7"
    ):
        adopted(folder)


@pytest.mark.parametrize(
    ("name", "number"), [("img_emb", 1), ("text_emb", 2), ("metadata", 0)], ids=["1", "2", "0"]
)
def test_a_part_that_is_missing_is_named(folder, name, number):
    next(folder.glob(f"{name}_{number}.*")).unlink()
    with pytest.raises(
        ValueError, match=rf"must all be there, but {name}_{number}\.\w+ is missing"
    ):
        adopted(folder)


def test_a_part_missing_of_all_kinds_in_the_middle_is_named(folder):
    for file in folder.glob("*_1.*"):
        file.unlink()
    with pytest.raises(ValueError, match=r"parts 0 to 2 .* but img_emb_1.npy is missing"):
        adopted(folder)


def test_a_part_that_is_there_twice_is_refused(folder):
    save(folder / "img_emb_01.npy", pairs(20)[0])
    with pytest.raises(ValueError, match=r"each part must be there once, .*img_emb_01.npy"):
        adopted(folder)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([None, *uids(19)]), r"each row must have an id, but .* is empty in 1 rows"),
        (pa.nulls(20), r"column 'uid' of .* is null"),
        (pa.array([[one] for one in uids(20)]), r"column 'uid' of .* is list<"),
        (pa.array([{"id": one} for one in uids(20)]), r"column 'uid' of .* is struct<"),
        (pa.array([0.5] * 20), r"column 'uid' of .* is double"),
        (pa.array(["", *uids(19)]), r"each row must have an id of text or bytes, got ''"),
        (pa.array(uids(19)), r"_1.npy has 20 rows and .*metadata_1.parquet has 19"),
        (pa.array(range(20)), r"ids must be of one kind, but some are text and some numbers"),
    ],
    ids=["a null", "nulls", "lists", "structs", "fractions", "empty", "too few", "numbers"],
)
def test_ids_that_are_none_are_refused(folder, column, message):
    parquet.write_table(pa.table({"uid": column}), folder / "metadata_1.parquet")
    with pytest.raises(ValueError, match=message):
        adopted(folder)


@pytest.mark.parametrize("content", [b"", b"PAR1" + bytes(60) + b"PAR1", b"nothing"], ids="ABC")
def test_a_damaged_table_is_named(folder, content):
    (folder / "metadata_2.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"metadata_2.parquet must be a whole parquet file"):
        adopted(folder)


def test_a_table_cut_in_its_pages_is_named(folder):
    table = folder / "metadata_0.parquet"
    content = bytearray(table.read_bytes())
    content[4:200] = bytes(196)
    table.write_bytes(content)
    with pytest.raises(ValueError, match=r"metadata_0.parquet must be a whole parquet file"):
        adopted(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"id_column": "key"}, r"must have the column 'key', but has uid, caption"),
        ({"join_by": "key"}, r"the data has no column 'key' to join by, it has sample_id, uid"),
        ({"join_by": "sample_id"}, r"data are whole numbers \(first 0\) .* text \(first 0000"),
        ({"logit_scale": 0.0}, r"logit_scale must be a positive number, got 0.0; CLIP's is 100"),
        ({"logit_scale": "100"}, r"logit_scale must be a positive number"),
        ({"logit_bias": np.inf}, r"logit_bias must be a finite number or None"),
        ({"trained_batch_size": 8}, r"trained_batch_size belongs to a logit_bias"),
        ({"logit_bias": -1.0, "fit_batch_size": 8}, r"fit_batch_size finds a bias, in place of"),
        ({"fit_batch_size": 1}, r"fit_batch_size must be a whole number of at least 2"),
        ({"normalize": "no"}, r"normalize must be True or False"),
        ({"duplicates": "last"}, r"duplicates must be 'error' or 'first'"),
        ({"ids": [*uids(ROWS), "more"], "join_by": "order"}, r"as many rows, but have 61 and 60"),
        ({"ids": [f"x{k}" for k in range(5)]}, r"none of 5 has; the first id .* is x0, and of"),
        ({"ids": [None] * 5}, r"each row must have an id of text or bytes, got None in the data"),
    ],
    ids=[
        "column of the table", "column of the data", "kinds", "scale", "text", "bias", "no bias",
        "two biases", "a size", "flag", "duplicates", "counts", "none found", "none there",
    ],
)  # fmt: skip
def test_options_that_do_not_fit_are_refused(folder, options, message):
    with pytest.raises(ValueError, match=message):
        adopted(folder, **options)


def test_ids_that_come_twice_are_refused_or_the_first_is_taken(folder):
    ids = uids(ROWS)
    ids[45] = ids[2]
    write_retrieval(folder, *pairs(ROWS), ids, EDGES, flat=True)
    with pytest.raises(
        ValueError, match=r"an id of its own, but 1 of 60 have one that came before"
    ):
        adopted(folder, ids=ids[:10])
    opened = PublishedEmbeddings.open(folder)
    options = {"join_by": "uid", "logit_scale": 100.0, "duplicates": "first"}
    adopt(folder.parent / "cache", batches(ids[:10]), opened, **options)
    found = np.fromfile(folder.parent / "cache/image/c/0/0", "<f2").reshape(10, -1)
    assert np.abs(found - pairs(ROWS)[0][:10]).max() < 1e-3


def test_sample_ids_that_come_twice_are_refused(folder):
    source = [*batches(uids(10)), *batches(uids(10))]
    with pytest.raises(ValueError, match=r"each sample id must come once, but 10 came again"):
        adopt(
            folder.parent / "cache",
            source,
            PublishedEmbeddings.open(folder),
            join_by="uid",
            logit_scale=100.0,
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "shard-1.npz").unlink(), r"must have its .npz .* but shard-1 have none"),
        (lambda f: (f / "shard-1.parquet").unlink(), r"need a parquet file .* join by order"),
        (lambda f: (f / "shard-1.npz").write_bytes(b"PK"), r"shard-1.npz must be an array"),
        (
            lambda f: np.savez(f / "shard-1.npz", l14_img=pairs(20)[0]),
            r"shard-1.npz must have an array 'l14_txt', but has l14_img; name another",
        ),
    ],
    ids=["no arrays", "no ids", "damaged", "an array"],
)
def test_archives_that_do_not_fit_are_refused(archives, change, message):
    change(archives)
    with pytest.raises(ValueError, match=message):
        adopted(archives)


def test_a_member_that_inflates_to_more_than_its_header_says_is_refused(archives):
    path = archives / "shard-1.npz"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content + bytes(50_000_000))
    with pytest.raises(ValueError, match=r"shard-1.npz:l14_img must have 1\d\d\d bytes .* got 5"):
        adopted(archives)


def test_a_member_that_is_damaged_inside_is_named(archives):
    path = archives / "shard-0.npz"
    content = bytearray(path.read_bytes())
    content[300:400] = bytes(100)  # Of l14_img's rows: its checksum no longer fits.
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"shard-0.npz:l14_img must be .* cannot be read .*CRC"):
        adopted(archives)


def test_a_folder_of_nothing_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(ValueError, match=r"must hold img_emb_0.npy, .* but has neither"):
        adopted(tmp_path / "in")
    with pytest.raises(ValueError, match=r"must be a folder or an .npz file, got"):
        adopted(tmp_path / "nowhere")


def test_a_missing_pyarrow_is_one_sentence(folder, monkeypatch):
    monkeypatch.setattr(
        "jest_loader.reference_cache.published.id_table.find_spec", lambda name: None
    )
    with pytest.raises(ModuleNotFoundError, match=r"need pyarrow, .* 'jest-loader\[parquet\]'"):
        adopted(folder)
