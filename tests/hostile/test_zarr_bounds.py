"""Nothing is allocated by what a Zarr array says of itself, or by what its chunks say."""

import json
import pickle
import tracemalloc
import warnings

import numpy as np
import pytest
import torch
import zarr
import zarr.codecs
import zarr.errors

from jest_loader.adapters.zarr import ZarrSource

numcodecs = pytest.importorskip("numcodecs", reason="comes with zarr")

MOST_BYTES = 1 << 22  # The least that one of these would allocate is twice as much.
HUGE = 1 << 20


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data"


def write(folder, zarr_format, values, **options):
    group = zarr.open_group(folder, mode="w", zarr_format=zarr_format)
    group.create_array("x", data=values, **{"chunks": values.shape, **options})


def edit(folder, change):
    file = folder / "x/zarr.json"
    file = file if file.is_file() else folder / "x/.zarray"
    described = json.loads(file.read_text())
    change(described)
    file.write_text(json.dumps(described))


def resize(folder, shape, chunk):
    def change(described):
        described["shape"] = shape
        if "chunks" in described:
            described["chunks"] = chunk
        else:
            described["chunk_grid"]["configuration"]["chunk_shape"] = chunk

    edit(folder, change)


def first_batch(folder, **options):
    return next(iter(ZarrSource(folder, batch_size=4, shuffle=False, **options)))["x"]


def refused(folder, match, **options):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=match) as caught:
            first_batch(folder, **options)
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert "'x'" in message or "x/" in message or "rows" in message
    assert "\n" not in message


@pytest.mark.parametrize("zarr_format", [2, 3], ids=["format2", "format3"])
@pytest.mark.parametrize(
    ("shape", "chunk", "match"),
    [
        ([2**62], [4], f"{2**62} rows"),
        ([2**40], [4], f"must have {2**38} chunks, got 1"),
        ([4], [2**40], f"a chunk of it has {2**40} items"),
        ([4, 2**40], [4, 4], f"a row of it has {2**40} items"),
        ([4] * 40, [4] * 40, "up to 32 numbers"),
        ([4], [0], "at least 1"),
        ([-4], [4], "at least 0"),
        ([4], [4, 4], "dimensions"),
        ([True], [4], "whole numbers"),
        ([4.0], [4], "whole numbers"),
        (["4"], [4], "whole numbers"),
        (4, [4], "a list of"),
        ([1e400], [4], "whole numbers"),
        ([4, 1 << 14, 1 << 14], [4, 1 << 14, 1 << 14], "a chunk of it has 4294967296 bytes"),
    ],
    ids=["2**62 rows", "2**40 rows", "chunk", "row", "dimensions", "no chunk", "negative", "ranks",
         "bool", "float", "text", "number", "infinite", "bytes"],
)  # fmt: skip
def test_shapes_that_are_not_there(folder, zarr_format, shape, chunk, match):
    write(folder, zarr_format, np.arange(1, 5, dtype=np.int32))
    resize(folder, shape, chunk)
    refused(folder, match)


def test_rows_that_are_fill_values_have_a_bound_too(folder):
    write(folder, 3, np.arange(1, 5, dtype=np.int32), chunks=(1,))
    resize(folder, [2**40], [1])
    refused(folder, "must have at most 16777216 blocks", fill_missing_chunks=True)


def test_a_window_that_does_not_fit_is_named(folder):
    write(folder, 3, np.ones((4, 4), np.float64), chunks=(1, 4))
    resize(folder, [2**14, 2**27], [1, 4])
    refused(folder, "smaller window_rows", fill_missing_chunks=True, window_rows=2**14)


@pytest.mark.parametrize(
    ("zarr_format", "values"),
    [
        (2, {"dtype": "<U1000000000"}),
        (2, {"dtype": "|S100000000000000000000"}),
        (2, {"dtype": "|V8000000000"}),
        (2, {"dtype": [["a", "<i4"], ["b", "<f4", [2**40]]]}),
        (3, {"data_type": "r80000000000"}),
        (3, {"data_type": {"name": "fixed_length_utf32",
                           "configuration": {"length_bytes": 4_000_000_000}}}),
        (3, {"data_type": {"name": "null_terminated_bytes",
                           "configuration": {"length_bytes": 2**40}}}),
        (2, {"fill_value": 10**4000}),
        (3, {"fill_value": 10**4000}),
        (2, {"fill_value": "x" * 2**16}),
        (3, {"fill_value": "x" * 2**16}),
    ],
    ids=["U", "S", "V", "fields", "raw", "utf32", "bytes", "fill2", "fill3", "text2", "text3"],
)  # fmt: skip
def test_items_that_are_too_large(folder, zarr_format, values):
    write(folder, zarr_format, np.arange(1, 5, dtype=np.int32))
    edit(folder, lambda described: described.update(values))
    refused(folder, "cannot be used")


def test_shards_of_too_many_chunks(folder):
    write(folder, 3, np.arange(1, 5, dtype=np.int8), chunks=(2,), shards=(4,))
    resize(folder, [2**28], [2**28])
    refused(folder, "shards have 134217728 chunks")


COMPRESSORS = {
    (2, "blosc"): numcodecs.Blosc(), (2, "zstd"): numcodecs.Zstd(), (2, "gzip"): numcodecs.GZip(),
    (2, "zlib"): numcodecs.Zlib(), (2, "bz2"): numcodecs.BZ2(), (2, "lz4"): numcodecs.LZ4(),
    (2, "lzma"): numcodecs.LZMA(preset=0), (3, "blosc"): zarr.codecs.BloscCodec(),
    (3, "gzip"): zarr.codecs.GzipCodec(), (3, "zstd"): zarr.codecs.ZstdCodec(),
}  # fmt: skip


@pytest.mark.parametrize("kind", COMPRESSORS, ids=str)
def test_chunks_are_inflated_to_what_is_declared(folder, kind):
    """A small chunk that says it is, or turns out to be, of 8 MiB."""
    values = np.tile(np.arange(1, 5), 50)
    write(folder, kind[0], values, compressors=COMPRESSORS[kind])
    np.testing.assert_array_equal(first_batch(folder), values[:4])
    write(folder, kind[0], np.ones(HUGE), compressors=COMPRESSORS[kind])
    resize(folder, [4], [4])
    refused(folder, "would be decoded to .* bytes")


@pytest.mark.parametrize("copied", [False, True], ids=["as opened", "pickled"])
def test_chunks_within_shards_too(folder, copied):
    write(folder, 3, np.ones(HUGE), chunks=(HUGE // 2,), shards=(HUGE,),
          compressors=zarr.codecs.GzipCodec())  # fmt: skip
    resize(folder, [4], [4])
    edit(folder, lambda described: described["codecs"][0]["configuration"].update(chunk_shape=[2]))
    source = ZarrSource(folder, batch_size=4)
    source = pickle.loads(pickle.dumps(source)) if copied else source
    with pytest.raises(ValueError, match=r"would be decoded to .* bytes"):
        list(source)


@pytest.mark.parametrize("cut", [1, 5, 20])
@pytest.mark.parametrize("kind", COMPRESSORS, ids=str)
def test_chunks_that_are_cut_short(folder, kind, cut):
    write(folder, kind[0], np.arange(1, 200), compressors=COMPRESSORS[kind])
    chunk = next(path for path in (folder / "x/0", folder / "x/c/0") if path.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-cut])
    refused(folder, "rows 0 to 198 of array 'x'")


def test_zstd_frames_that_do_not_tell_their_size(folder):
    values = np.arange(1, 5, dtype=np.int32)
    write(folder, 2, values, compressors=numcodecs.Zstd())
    start, content = bytes.fromhex("28b52ffd 00 58"), values.tobytes()
    block = (1 | len(content) << 3).to_bytes(3, "little") + content
    (folder / "x/0").write_bytes(start + block)
    np.testing.assert_array_equal(first_batch(folder), values)
    run = (1 << 1 | (1 << 17) << 3).to_bytes(3, "little") + b"\1"
    (folder / "x/0").write_bytes(start + run * 20_000 + block)
    refused(folder, "would be decoded to .* bytes")


@pytest.mark.parametrize("zarr_format", [2, 3], ids=["format2", "format3"])
def test_text_of_more_values_than_declared(folder, zarr_format):
    group = zarr.open_group(folder, mode="w", zarr_format=zarr_format)
    array = group.create_array("x", shape=(4,), chunks=(4,), dtype="string", compressors=None)
    array[:] = np.array(["a", "bc", "", "d"], object)
    assert first_batch(folder) == ["a", "bc", "", "d"]
    chunk = next(path for path in (folder / "x/0", folder / "x/c/0") if path.is_file())
    chunk.write_bytes((1 << 31).to_bytes(4, "little") + chunk.read_bytes()[4:])
    refused(folder, "would be decoded to 2147483648 values, and may have 4")


def test_filters_to_items_that_are_too_large(folder):
    write(folder, 2, np.arange(1, 5, dtype=np.uint8), compressors=None)
    made = [{"id": "astype", "encode_dtype": "|u1", "decode_dtype": "<U100000000"}]
    edit(folder, lambda described: described.update(filters=made))
    refused(folder, "filters to numbers of at most 64 bytes, got astype")


@pytest.mark.parametrize("codec", ["zfpy", "pcodec", "msgpack2", "json2"])
def test_codecs_that_have_no_bounds(folder, codec):
    write(folder, 2, np.arange(1, 5, dtype=np.float32), compressors=None)
    edit(folder, lambda described: described.update(filters=[{"id": codec}]))
    refused(folder, "cannot be used|only decode")


@pytest.mark.parametrize("zarr_format", [2, 3], ids=["format2", "format3"])
@pytest.mark.parametrize("dtype", [">f4", ">i8", ">u2", ">f2", ">c8", ">M8[s]", "<M8[ns]", "?"])
def test_numbers_come_in_the_order_of_the_processor(folder, zarr_format, dtype):
    values = np.arange(1, 13).reshape(4, 3).astype(dtype)
    with warnings.catch_warnings():  # Times have no specification in format 3.
        warnings.simplefilter("ignore", zarr.errors.UnstableSpecificationWarning)
        write(folder, zarr_format, values)
        found = first_batch(folder)
    np.testing.assert_array_equal(found, values)
    assert found.dtype == values.dtype.newbyteorder("=")
    assert found.dtype.isnative
    if values.dtype.kind != "M":
        torch.from_numpy(found)


@pytest.mark.parametrize("zarr_format", [2, 3], ids=["format2", "format3"])
def test_text_of_another_byte_order(folder, zarr_format):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", zarr.errors.UnstableSpecificationWarning)
        write(folder, zarr_format, np.array(["a", "bcd", "", "ä"], ">U3"))
        assert first_batch(folder) == ["a", "bcd", "", "ä"]


@pytest.mark.parametrize("zarr_format", [2, 3], ids=["format2", "format3"])
def test_items_with_fields_are_refused(folder, zarr_format):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", zarr.errors.UnstableSpecificationWarning)
        write(folder, zarr_format, np.ones(4, [("a", "<i4"), ("b", "<f4")]))
        refused(folder, "must be numbers, flags, times, text or bytes.*each field as an array")


def test_groups_without_arrays_or_rows(folder):
    group = zarr.open_group(folder, mode="w")
    with pytest.raises(ValueError, match="at least one array"):
        ZarrSource(folder, batch_size=1)
    group.create_group("within").create_array("x", data=np.ones(4), chunks=(4,))
    with pytest.raises(ValueError, match="open the group that holds them"):
        ZarrSource(folder, batch_size=1)
    assert first_batch(folder / "within").tolist() == [1] * 4
    group.create_array("none", shape=(0, 3), dtype="f4", chunks=(1, 3))
    with pytest.raises(ValueError, match="at least one row"):
        ZarrSource(folder, batch_size=1)
    group.create_array("thin", shape=(4, 0), dtype="f4", chunks=(4, 1))
    assert next(iter(ZarrSource(folder, batch_size=4, columns=["thin"])))["thin"].shape == (4, 0)
