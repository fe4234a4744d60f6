"""Tars that a stranger wrote, read as a source: one sentence, or a row that says why it is bad."""

import io
import os
import random
import re
import struct
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest

from jest_loader.adapters.tar import TarSource, reader
from tests.adapters.tars import example, write_shards, write_tar


def source(tar, **options):
    return TarSource(tar, batch_size=1, shuffle=False, drop_last=False, **options)


def reasons(tar, columns):
    return [batch["skip_reason"][0] for batch in source(tar, columns=columns)]


def members(*names):
    return [(name, b"content") for name in names]


WRONG = {
    "empty": ([], "must hold at least one example, but .* holds none"),
    "hidden members only": (members(".a.jpg", "x/._b.jpg"), "must hold at least one example"),
    "keys with dots": (members("IMG.0001.jpg", "IMG.0001.txt"), "IMG_0000.jpg for IMG.0000.jpg"),
    "two pictures": (members("1.jpg", "1.png"), r"several members of one kind for '1'"),
    "a part twice": (members("1.bin", "1.bin"), r"the last is \.bin"),
    "not neighbours": (members("1.jpg", "2.jpg", "1.txt"), "'1' in two places .examples 0 and 2"),
    "too many kinds": (members(*(f"{n}.x{n}" for n in range(1001))), "at most 1000 kinds"),
}


@pytest.mark.parametrize(("content", "error"), WRONG.values(), ids=WRONG)
def test_tars_that_hold_no_examples_are_refused(tmp_path, content, error):
    with pytest.raises(ValueError, match=error):
        source(write_tar(tmp_path / "a.tar", content))


def whole(tmp_path, rows=20):
    return write_shards(tmp_path / "shards", 1, rows) / "00000.tar"


DAMAGES = {
    "cut in a member": (
        lambda tar: tar[:1000],
        r"00000\.tar is .* byte 0, a member of 702 bytes reaches beyond",
    ),
    "cut in a header": (lambda tar: tar[:1700], "byte 1536, it is cut short"),
    "cut between members": (lambda tar: tar[:3584], "byte 3584, it is cut short"),
    "a header's byte": (lambda tar: tar[:1540] + b"?" + tar[1541:], "byte 1536, a header does not"),
    "a size of text": (lambda tar: tar[:1660] + b"zzz" + tar[1663:], "byte 1536, "),
    "joined with cat": (lambda tar: tar + tar, "tars are not joined with cat"),
    "no tar": (lambda tar: b"x" * 9999, "no tar, or is damaged"),
    "nothing": (lambda tar: b"", "byte 0, it is cut short"),
    "gzip": (lambda tar: b"\x1f\x8b" + tar, "must not be compressed"),
    "zstd": (lambda tar: b"\x28\xb5\x2f\xfd", r"gzip -d, zstd -d.*jest-loader pack"),
}


@pytest.mark.parametrize(("damage", "error"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_tars_are_named_with_the_place(tmp_path, damage, error):
    tar = whole(tmp_path)
    tar.write_bytes(damage(tar.read_bytes()))
    with pytest.raises(ValueError, match=error):
        source(tar)


def test_a_member_declared_larger_than_the_tar_is_an_error(tmp_path):
    info = tarfile.TarInfo("big.jpg")
    info.size = 1 << 40
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(ValueError, match="1099511627776 bytes reaches beyond the 1536 bytes"):
        source(tmp_path / "a.tar")


def test_negative_and_endless_sizes_do_not_hang(tmp_path):
    for size in (b"\xff" * 12, b"\x80" + b"\xff" * 11, b"-0000000777\0"):
        header = bytearray(tarfile.TarInfo("a.jpg").tobuf())
        header[124:136] = size
        header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 256)
        (tmp_path / "a.tar").write_bytes(bytes(header) + bytes(1024))
        with pytest.raises(ValueError, match="at byte 0, "):
            source(tmp_path / "a.tar")


def test_sizes_in_base_256_are_read(tmp_path):
    header = bytearray(tarfile.TarInfo("a.txt").tobuf())
    header[124:136] = b"\x80" + (5).to_bytes(11)
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 256)
    (tmp_path / "a.tar").write_bytes(bytes(header) + b"hello".ljust(512, b"\0") + bytes(1024))
    (batch,) = source(tmp_path / "a.tar")
    assert batch["caption"] == ["hello"]


def test_links_devices_and_sparse_members_are_bad_rows(tmp_path):
    kinds = {"1": tarfile.SYMTYPE, "2": tarfile.LNKTYPE, "3": tarfile.CHRTYPE}
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for key, kind in kinds.items():
            info = tarfile.TarInfo(f"{key}.txt")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        info = tarfile.TarInfo("4.txt")
        info.pax_headers = {"GNU.sparse.major": "1"}
        tar.addfile(info)
    found = reasons(tmp_path / "a.tar", {"text": "txt"})
    for reason, what in zip(found, ["a link", "a link", "a device", "a sparse"], strict=True):
        assert f"is {what}" in reason


def test_absolute_and_climbing_names_are_read_and_shown_escaped(tmp_path):
    names = ["/etc/a.txt", "../../b.txt", "c\x1b[31m.txt", "d.txt"]
    tar = write_tar(tmp_path / "a.tar", [(name, b"\xff") for name in names])
    found = reasons(tar, {"text": "txt"})
    for reason, key in zip(found, ["/etc/a", "../../b", r"c\x1b[31m", "d"], strict=True):
        assert reason.startswith(f"example '{key}' of ")
        assert reason.isprintable()


def test_names_that_are_not_utf8_are_keys_all_the_same(tmp_path):
    options = {"encoding": "utf-8", "errors": "surrogateescape", "format": tarfile.GNU_FORMAT}
    tar = write_tar(
        tmp_path / "a.tar", {b"\xe4.txt".decode(errors="surrogateescape"): b"x"}, **options
    )
    (batch,) = source(tar, columns={"key": "__key__", "t": "txt"})
    assert (batch["key"], batch["t"]) == ([r"\xe4"], ["x"])


def bomb(declared=None):
    """An npz of a gigabyte of zeros, which says so, or that it is small."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("e.npy", "w") as e,
    ):
        np.lib.format.write_array_header_1_0(
            e, {"descr": "<f4", "fortran_order": False, "shape": (1 << 28,)}
        )
        for _ in range(128):
            e.write(bytes(1 << 20))
    content = bytearray(file.getvalue())
    if declared is not None:
        place = content.rindex(b"PK\x01\x02")
        content[place + 24 : place + 28] = struct.pack("<I", declared)
    return bytes(content)


def good_npz():
    file = io.BytesIO()
    np.savez(file, e=np.ones(3, np.float32))
    return file.getvalue()


def test_npz_that_inflate_to_gigabytes_are_bad_rows_at_no_cost(tmp_path):
    contents = {"0.npz": good_npz(), "1.npz": bomb(), "2.npz": bomb(64), "3.npz": b"PK"}
    tar = write_tar(tmp_path / "a.tar", contents)
    tracemalloc.start()
    found = reasons(tar, {"e": "npz:e"})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found[0] == ""
    assert all(re.search(r"its \.npz at byte \d+ cannot be read", reason) for reason in found[1:])
    assert peak < 1 << 24


@pytest.fixture
def large(monkeypatch):
    """Tars are read as if they were large."""
    monkeypatch.setattr(reader, "_LEAST_FILE_BYTES", 0)


def cut(tar):
    os.truncate(tar, 3000)


def touched(tar):
    with tar.open("r+b") as file:
        file.write(b"?")


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("change", [cut, touched])
def test_a_tar_written_to_while_in_use_is_named(tmp_path, change):
    tar = whole(tmp_path)
    batches = iter(source(tar))
    first, second = next(batches), next(batches)
    assert first["image"][0] == example(0)["000000000.jpg"]
    change(tar)
    with pytest.raises(ValueError, match=r"'000000002' of .*00000\.tar cannot be read at byte \d+"):
        next(batches)
    with pytest.raises(ValueError, match=r"'000000001' of .*was written to while it was in use"):
        second["image"].views()


def test_a_tar_replaced_after_it_was_indexed_is_named(tmp_path):
    tar = whole(tmp_path)
    opened = source(tar)
    write_tar(tmp_path / "other.tar", example(3)).replace(tar)
    with pytest.raises(ValueError, match=r"00000\.tar was replaced or written to after it was ind"):
        next(iter(opened))


def test_a_tar_that_is_gone_is_named(tmp_path):
    tar = whole(tmp_path)
    opened = source(tar)
    tar.unlink()
    with pytest.raises(FileNotFoundError, match=r"00000\.tar is not there any more"):
        next(iter(opened))


def test_any_byte_of_a_sidecar_may_be_wrong(tmp_path):
    tar = whole(tmp_path, rows=3)
    before = source(tar).fingerprint()
    kept = tar.with_name("00000.tar.index")
    content, random_ = kept.read_bytes(), random.Random(0)
    for place in [*range(0, 120, 3), *random_.sample(range(len(content)), 60)]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << random_.randrange(8)
        kept.write_bytes(damaged[: random_.choice([len(damaged), place])])
        assert source(tar).fingerprint() == before
        assert kept.read_bytes() == content


def test_the_sidecar_of_another_tar_is_not_used(tmp_path, caplog):
    tar = whole(tmp_path)
    source(tar)
    kept = tar.with_name("00000.tar.index")
    other = write_tar(tmp_path / "b.tar", {"other.txt": b"x"})
    (tmp_path / "b.tar.index").write_bytes(kept.read_bytes())
    (batch,) = source(other)
    assert batch["caption"] == ["x"]
    assert "b.tar.index is not used, and made anew: the tar has changed since" in caplog.text


def test_any_byte_of_a_tar_may_be_wrong(tmp_path):
    tar = whole(tmp_path, rows=2)
    content, random_ = tar.read_bytes(), random.Random(1)
    for place in random_.sample(range(4 * 1536), 300):
        damaged = bytearray(content)
        damaged[place] = random_.randrange(256)
        tar.write_bytes(damaged)
        try:
            batches = [*source(tar, columns={"image": "jpg", "n": "json:n:int", "text": "txt"})]
        except ValueError as error:
            assert "00000.tar" in str(error)  # noqa: PT017
        else:
            assert len(batches) == 2


URLS = {
    "nothing there": ("no/such.tar", "tars must be there, but .*such.tar is not"),
    "no match": ("no/*.tar", r"no file fits no/\*\.tar"),
    "an empty list": ([], "at least one tar, got an empty list"),
    "an empty folder": (".", r"must hold tars \(\*\.tar\), but holds none"),
    "a store": ("s3://bucket/{000..999}.tar", "tars must be local files, got s3://bucket"),
    "a pipe": ("pipe:cat a.tar", "tars must be local files"),
    "endless braces": ("{0..99999999999}.tar", "at most 1000000 tars"),
    "compressed": ("a.tar.gz", "must not be compressed"),
}


@pytest.mark.parametrize(("urls", "error"), URLS.values(), ids=URLS)
def test_urls_that_name_no_tars_are_refused(tmp_path, monkeypatch, urls, error):
    monkeypatch.chdir(tmp_path)
    if urls == "a.tar.gz":
        (tmp_path / urls).write_bytes(b"")
    with pytest.raises(ValueError, match=error):
        source(urls)


COLUMNS = {
    "empty": ({}, "columns must map names to members"),
    "a list": (["jpg"], "columns must map names to members"),
    "no text": ({"image": 3}, "both text, as in"),
    "two kinds": ({"x": "txt;jpg"}, "must be extensions of one kind"),
    "no field": ({"x": "npz"}, "must name a field of .json or an array of .npz"),
    "a field of a picture": ({"x": "jpg:a"}, "must name a field of .json"),
    "the reasons": ({"skip_reason": "txt"}, "must not be named 'skip_reason'"),
    "no arrays": ({"x": "npz:a"}, "none of the first has a member .npz"),
}


@pytest.mark.parametrize(("columns", "error"), COLUMNS.values(), ids=COLUMNS)
def test_columns_that_cannot_be_read_are_refused(tmp_path, columns, error):
    with pytest.raises(ValueError, match=error):
        source(whole(tmp_path), columns=columns)
