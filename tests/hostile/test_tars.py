"""A tar loses no picture without a word, and costs what its size allows."""

import io
import tarfile
import tracemalloc

import pytest
from PIL import Image

from jest_loader.adapters.mds import MdsSource
from jest_loader.pack import PackConfig, pack


def picture(number=0):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def add(tar, name, content=b"", **fields):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for field, value in fields.items():
        setattr(member, field, value)
    tar.addfile(member, io.BytesIO(content))


def packed(tmp_path, members, *, mode="w", **options):
    path = tmp_path / "a.tar"
    with tarfile.open(path, mode) as tar:
        for member in members:
            add(tar, *member[:2], **(member[2] if len(member) > 2 else {}))
    options = {"max_skipped_fraction": 0.9} | options
    return pack(PackConfig((path,), tmp_path / "out", **options))


GOOD = [("0.png", picture()), ("0.txt", b"good")]


@pytest.mark.parametrize(
    "members",
    [
        [(f"IMG.{n:04}.{kind}", b"x") for n in range(50) for kind in ("png", "txt")],
        [("a.png", picture(1)), ("a.jpg", picture(2)), ("a.txt", b"x")],
        [("a.png", picture(1)), ("a.png", picture(2)), ("a.txt", b"x")],
        [("a.png", picture(1)), ("a.b.png", picture(2)), ("a.b.txt", b"x")],
        [("a.left.png", picture(1)), ("a.right.png", picture(2))],
        [("a.left.png", picture(1)), ("a.right.jpg", picture(2)), ("a.txt", b"x")],
    ],
)
def test_a_group_of_several_pictures_is_an_error(tmp_path, members):
    with pytest.raises(ValueError, match=r"only the extension follows the first dot"):
        packed(tmp_path, GOOD + members)


def test_pictures_beside_that_of_an_example_are_counted(tmp_path, caplog):
    further = [("1.seg.png", picture(3)), ("1.png", picture(1)), ("1.txt", b"x")]
    further += [("1.left.png", picture(4)), ("2.seg.png", picture(5)), ("2.txt", b"x")]
    assert packed(tmp_path, GOOD + further).skipped == {"no picture beside it": 1}
    assert "3 pictures with further dots in their names (0.seg.png) are left out" in caplog.text


def test_hidden_members_do_not_split_examples(tmp_path, caplog):
    members = [("._0.png", b"x"), GOOD[0], ("._0.txt", b"x"), GOOD[1], (".x/1.png", b"x")]
    assert str(packed(tmp_path, members)) == "1 written, 0 skipped"
    assert "3 members with hidden names" in caplog.text


def test_equal_examples_count_for_no_limit(tmp_path):
    again = [("1.png", picture(1)), ("1.txt", b"x"), *GOOD] * 40
    tally = packed(tmp_path, GOOD + again, max_skipped_fraction=0)
    assert (tally.written, tally.skipped) == (2, {"duplicate": 79})


def test_another_picture_of_one_name_is_another_example(tmp_path):
    other = [("1.png", picture(1)), ("1.txt", b"x"), ("0.png", picture(2)), ("0.txt", b"y")]
    assert packed(tmp_path, GOOD + other).written == 3


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"caption": "\\ud83d"}', b"\xff\xfeu\0"])
def test_json_of_any_kind_is_skipped(tmp_path, content):
    assert packed(tmp_path, [*GOOD, ("1.png", picture(1)), ("1.json", content)]).written == 1


def test_kept_columns_and_names_that_are_not_utf8(tmp_path):
    half = [("1.png", picture(1)), ("1.json", b'{"caption": "x", "k": "\\ud83d"}')]
    latin = [("\udce9.png", picture(2)), ("\udce9.json", b'\xef\xbb\xbf{"caption":"x","k":[{}]}')]
    assert packed(tmp_path, half + latin, keep_columns=("k",)).written == 1
    (batch,) = MdsSource(tmp_path / "out", batch_size=1)
    assert (batch["key"], batch["k"]) == ([r"a.tar/\udce9"], ["[{}]"])


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_a_large_member_is_skipped_and_not_read(tmp_path, mode):
    large = [("1.png", picture(1)), ("1.txt", bytes((1 << 24) + 1))]
    tally = packed(tmp_path, GOOD + large, mode=mode)
    assert tally.skipped == {"a member of more than 16 MiB": 1}


def test_headers_of_any_length_are_an_error(tmp_path):
    path = tmp_path / "a.tar"
    member = tarfile.TarInfo("pax")
    member.type, member.size = tarfile.XHDTYPE, 1 << 32
    packed(tmp_path, GOOD)  # which imports what is not to be measured
    path.write_bytes(member.tobuf())
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"a\.tar .*more than 1048576 bytes"):
        pack(PackConfig((path,), tmp_path / "new"))
    assert tracemalloc.get_traced_memory()[1] < 1 << 23
    tracemalloc.stop()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_counted(tmp_path, kind):
    link = ("1.png", b"", {"type": kind, "linkname": "0.png"})
    assert packed(tmp_path, [*GOOD, link, ("1.txt", b"x")]).skipped.total() == 1


def test_examples_whose_members_are_no_neighbours_are_said_so(tmp_path):
    names = [f"{n}.png" for n in range(3)], [f"{n}.txt" for n in range(3)]
    members = [(name, picture(n)) for n, name in enumerate(names[0])]
    members += [(name, b"x") for name in names[1]]
    with pytest.raises(ValueError, match=r"3 no \.txt or \.json beside it, 3 no picture beside it"):
        packed(tmp_path, members)
