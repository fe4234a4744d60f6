"""A reference cache that is damaged, or says what cannot be, is refused in one sentence."""

import json
import math
import os
import shutil
import tracemalloc

import numpy as np
import pytest
import torch

from jest_loader import CachedReference, Embeddings
from jest_loader.reference_cache import build, verify
from jest_loader.reference_cache.folder import CacheFolder
from jest_loader.reference_cache.format import checksum
from jest_loader.state_digest import with_digest

IDS = np.random.default_rng(0).permutation(64) * 3


class Reference:
    def embed(self, batch):
        angle = torch.as_tensor(batch["sample_id"]) / 10
        image = torch.stack([angle.cos(), angle.sin()], dim=1)
        return Embeddings(image, -image, 7.5, -2.0)


def batches(ids=IDS, size=4):
    return [{"sample_id": np.array(ids[i : i + size])} for i in range(0, len(ids), size)]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    path = tmp_path_factory.mktemp("built") / "cache"
    build(path, batches(), Reference(), chunk_rows=16)
    return path


@pytest.fixture
def cache(built, tmp_path):
    return shutil.copytree(built, tmp_path / "cache")


def look_up(cache, ids=IDS):
    return CachedReference.open(cache).embed({"sample_id": ids})


def swap(one, other):
    held = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(held)


@pytest.mark.parametrize(
    ("one", "other"), [("image/c/1/0", "image/c/2/0"), ("image/c/1/0", "text/c/1/0")]
)
def test_swapped_chunks_are_found_when_they_are_read(cache, one, other):
    swap(cache / one, cache / other)
    look_up(cache, IDS[:16])
    with pytest.raises(ValueError, match=r"c/1/0 must have the BLAKE2b .*, got .*; build it again"):
        look_up(cache, IDS[20:24])


@pytest.mark.parametrize("name", ["image/c/3/0", "text/c/0/0", "index/id/c/0", "index/row/c/0"])
def test_a_flipped_bit_is_found_when_it_is_read(cache, name):
    content = bytearray((cache / name).read_bytes())
    content[9] ^= 4
    (cache / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} must have the BLAKE2b"):
        look_up(cache)


FILES = ["image/c/1/0", "text/c/1/0", "index/id/c/0", "index/row/c/0"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("is_used", [False, True], ids=["before", "in use"])
def test_a_file_that_is_cut_in_place_is_named(cache, name, is_used):
    cached = CachedReference.open(cache)
    if is_used:
        cached.embed({"sample_id": IDS})
    with (cache / name).open("r+b") as file:  # The rest of its page reads as zeros.
        file.truncate(32)
    for _ in range(2):
        with pytest.raises(ValueError, match=f"{name} must stay as it is .* but has 32 bytes now"):
            cached.embed({"sample_id": IDS})


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_written_in_place_is_compared_again(cache, name):
    cached = CachedReference.open(cache)
    expected = cached.embed({"sample_id": IDS})
    content = (cache / name).read_bytes()
    (cache / name).write_bytes(content)
    assert torch.equal(cached.embed({"sample_id": IDS}).image, expected.image)
    (cache / name).write_bytes(content[::-1])
    for _ in range(2):
        with pytest.raises(ValueError, match=f"{name} must have the BLAKE2b"):
            cached.embed({"sample_id": IDS})
    (cache / name).write_bytes(content)
    assert torch.equal(cached.embed({"sample_id": IDS}).image, expected.image)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("end", ["deleted", "replaced"])
def test_a_file_that_loses_its_name_is_still_there(cache, name, end):
    cached = CachedReference.open(cache)
    (cache / "new").write_bytes(b"new")
    if end == "deleted":
        (cache / name).unlink()
    else:
        (cache / "new").replace(cache / name)
    for _ in range(2):
        image = cached.embed({"sample_id": IDS}).image
        assert torch.equal(image, Reference().embed({"sample_id": IDS}).image.half())


def test_any_flipped_bit_of_the_manifest_is_found(cache):
    group = cache / "zarr.json"
    content = group.read_bytes()
    expected = look_up(cache)
    harmless, messages = 0, []
    for place in range(0, len(content), 7):
        group.write_bytes(bytes([*content[:place], content[place] ^ 2, *content[place + 1 :]]))
        try:
            found = look_up(cache)
        except ValueError as error:
            messages.append(str(error))
        else:
            assert torch.equal(found.image, expected.image)
            assert found.logit_scale == expected.logit_scale
            harmless += 1
    assert harmless < 20  # Outside the manifest.
    assert not [message for message in messages if "\n" in message]


def say(cache, **values):
    group = json.loads((cache / "zarr.json").read_text())
    manifest = group["attributes"]["jest_loader_cache"]
    del manifest["digest"]
    group["attributes"]["jest_loader_cache"] = with_digest(manifest | values)
    (cache / "zarr.json").write_text(json.dumps(group))


BAD = [None, True, -1, 0, 2**62, 2**40, 10**30, 1.5, math.nan, "", "16", "\x1b[2J", [], [1], {}]


@pytest.mark.parametrize(
    "name",
    ["version", "kind", "num_rows", "num_missing", "chunk_rows", "width", "logit_scale",
     "has_index", "identity", "checksums", "num_seen", "num_known"],
)  # fmt: skip
def test_manifests_that_cannot_be_are_refused(cache, name):
    before = (cache / "zarr.json").read_bytes()
    stored = json.loads(before)["attributes"]["jest_loader_cache"][name]
    for value in BAD:
        may_be = name == "num_missing" and value == 0
        may_be |= name == "logit_scale" and isinstance(value, int | float) and math.isfinite(value)
        if (
            (value == stored and type(value) is type(stored))
            or may_be
            or (name == "identity" and value == {})
        ):
            continue
        (cache / "zarr.json").write_bytes(before)
        say(cache, **{name: value})
        for read in (verify, CachedReference.open):
            with pytest.raises(ValueError, match=r"reference cache|cache must hold") as caught:
                read(cache)
            assert "\x1b" not in str(caught.value)
            assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("index/id", lambda values: values[::-1]),
        ("index/id", lambda values: np.repeat(values[::2], 2)),
        ("index/row", lambda values: np.zeros_like(values)),
        ("index/row", lambda values: values + 2**40),
        ("index/row", lambda values: values - 1),
    ],
    ids=["descending", "repeated", "one_row", "far_rows", "negative_rows"],
)
def test_an_index_that_cannot_be_is_refused(cache, name, change):
    file = cache / name / "c" / "0"
    content = change(np.fromfile(file, "<i8")).tobytes()
    file.write_bytes(content)
    manifest = json.loads((cache / "zarr.json").read_text())["attributes"]["jest_loader_cache"]
    say(cache, checksums=manifest["checksums"] | {name: [checksum(content)]})
    with pytest.raises(ValueError, match="must hold ascending ids and each row once"):
        CachedReference.open(cache)


@pytest.mark.parametrize("name", ["zarr.json", "image/zarr.json"])
@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "\xff", "null", "[]"])
def test_json_that_is_nested_or_something_else_is_refused(cache, name, text):
    (cache / name).write_text(text, encoding="latin-1")
    for read in (verify, CachedReference.open):
        with pytest.raises(ValueError, match="damaged") as caught:
            read(cache)
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["zarr.json", "image/zarr.json"])
def test_json_without_end_is_not_read(cache, name):
    os.truncate(cache / name, 1 << 40)
    for read in (verify, CachedReference.open):
        with pytest.raises(ValueError, match="damaged"):
            read(cache)


def test_verifying_takes_no_memory_by_the_size_of_chunks(tmp_path):
    source = [{"sample_id": np.arange(1 << 20)}]
    build(tmp_path / "large", source, lambda batch: torch.ones(1 << 20), chunk_rows=1 << 20)
    tracemalloc.start()
    verify(tmp_path / "large")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 << 20  # A chunk of ids has 8 MiB.


def test_an_output_with_json_without_end_is_not_overwritten(cache):
    os.truncate(cache / "zarr.json", 1 << 40)
    with pytest.raises(ValueError, match="only a reference cache can be overwritten"):
        build(cache, batches(), Reference(), overwrite=True)


def test_a_shape_that_is_not_the_files_is_refused(cache):
    metadata = json.loads((cache / "image/zarr.json").read_text())
    metadata["shape"][0] = 2**40
    (cache / "image/zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match="does not describe what was written"):
        CachedReference.open(cache)


class Stop(Exception):
    pass


def stopping(ids, after):
    """A source without a length whose reading is stopped after some batches."""
    for number, batch in enumerate(batches(ids)):
        if number == after:
            raise Stop
        yield batch


def test_a_source_that_goes_on_elsewhere_is_refused(tmp_path):
    with pytest.raises(Stop):
        build(tmp_path / "cache", stopping(IDS, 9), Reference(), chunk_rows=16)
    for source in (batches(IDS[16:]), batches(IDS[::-1]), batches(IDS[:20])):
        with pytest.raises(ValueError, match="must yield the same examples in the same order"):
            build(tmp_path / "cache", source, Reference(), chunk_rows=16)
    build(tmp_path / "cache", batches(), Reference(), chunk_rows=16)
    assert verify(tmp_path / "cache").num_rows == 64


def test_a_short_chunk_of_a_source_without_a_length_grows(tmp_path, monkeypatch):
    def stop(*_):
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(CacheFolder, "finish", stop)
        with pytest.raises(Stop):
            build(tmp_path / "cache", batches(IDS[:20]), Reference(), chunk_rows=16)
    build(tmp_path / "cache", batches(), Reference(), chunk_rows=16)
    assert verify(tmp_path / "cache").num_rows == 64
    look_up(tmp_path / "cache")


@pytest.mark.parametrize("damage", ["num_rows", "nested", "null", "text"])
def test_a_chunk_whose_record_is_damaged_is_built_again(tmp_path, damage, caplog):
    with pytest.raises(Stop):
        build(tmp_path / "cache", stopping(IDS, 14), Reference(), chunk_rows=16)
    record = tmp_path / "cache" / "building" / "00000001.json"
    texts = {"nested": "[" * 100_000, "null": "null", "text": "16"}
    values = json.loads(record.read_text())
    record.write_text(texts.get(damage) or json.dumps({**values, "num_rows": 15}))
    build(tmp_path / "cache", batches(), Reference(), chunk_rows=16)
    assert "is damaged, so its chunk is built again" in caplog.text
    assert verify(tmp_path / "cache").num_rows == 64
    found = look_up(tmp_path / "cache")
    assert torch.equal(found.image, Reference().embed({"sample_id": IDS}).image.half())


def test_damaged_settings_of_a_building_are_refused(tmp_path):
    with pytest.raises(Stop):
        build(tmp_path / "cache", stopping(IDS, 9), Reference(), chunk_rows=16)
    for text in ("[" * 100_000, "{}", '{"identity": 3}', "null"):
        (tmp_path / "cache/building/settings.json").write_text(text)
        with pytest.raises(ValueError, match=r"settings.json must hold the settings .* overwrite"):
            build(tmp_path / "cache", batches(), Reference(), chunk_rows=16)


class Seekable:
    batch_size, num_examples = 4, 64

    def __len__(self):
        return 16

    def __iter__(self):
        return iter(batches()[self.first :])

    def seek(self, batch):
        self.first = batch


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_builder_whose_peers_never_come_ends(tmp_path, rank, monkeypatch):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TimeoutError, match=r"none came for 0.3 s; .* longer peers_timeout_s"):
        build(tmp_path / "cache", Seekable(), Reference(), chunk_rows=16, peers_timeout_s=0.3)


@pytest.mark.parametrize("timeout_s", [0, -1.0, math.nan])
def test_a_time_out_that_is_none_is_refused(tmp_path, timeout_s):
    with pytest.raises(ValueError, match="peers_timeout_s must be positive or None, got"):
        build(tmp_path / "cache", batches(), Reference(), peers_timeout_s=timeout_s)
    assert not (tmp_path / "cache").exists()


def test_what_a_cache_was_made_from_is_shown_escaped_and_cut(tmp_path):
    with pytest.raises(Stop):
        build(tmp_path / "cache", stopping(IDS, 9), Reference(), chunk_rows=16)
    settings = tmp_path / "cache/building/settings.json"
    found = json.loads(settings.read_text())
    found["identity"] = {"\x1b[2J": "a" * 10_000}
    settings.write_text(json.dumps(found))
    with pytest.raises(
        ValueError, match=r"with \\x1b\[2J 'a+\.\.\. \(10002 characters\)"
    ) as caught:
        build(tmp_path / "cache", batches(), Reference(), chunk_rows=16)
    assert len(str(caught.value)) < 1000
