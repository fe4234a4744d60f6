"""An MDS index that lies is an error that names the file and the field."""

import json

import pytest

from jest_loader.adapters.mds import MdsSource
from jest_loader.pack import write_mds


@pytest.fixture
def packed(tmp_path):
    write_mds(
        tmp_path / "data",
        {"image": "jpeg", "name": "str", "size": "int"},
        ({"image": b"a", "name": "b", "size": row} for row in range(4)),
        compression="zstd",
    )
    return tmp_path / "data"


def with_index(folder, change):
    """The folder, after ``change`` of its index's first entry."""
    index = json.loads((folder / "index.json").read_text())
    change(index["shards"][0])
    (folder / "index.json").write_text(json.dumps(index))
    return folder


def nested(depth):
    return json.loads("[" * depth + "]" * depth)


NO_NUMBERS = [True, "7", -1, float("nan"), 1e3, 2**40, 10**30, None, [], nested(300)]
LIES = [
    *[(f"raw_data.{'bytes'}", value) for value in NO_NUMBERS],
    *[("samples", value) for value in [*NO_NUMBERS, 67108864]],
    *[("column_sizes", [None, None, value]) for value in NO_NUMBERS[:-3]],
    ("column_sizes", [None, None]),
    ("column_sizes", 8),
    ("column_names", ["image", "size", "size"]),
    ("column_names", ["image", "name", 3]),
    ("column_names", "image"),
    ("column_names", []),
    ("column_encodings", ["jpeg", "int", None]),
    ("column_encodings", ["jpeg"]),
    ("format", []),
    ("format", {}),
    ("format", "\x1b[2J"),
    ("version", [2]),
    ("raw_data", "shard"),
    ("raw_data.hashes", {"crc0": "1"}),
    ("raw_data.hashes", {"sha1": 7}),
    ("raw_data.hashes", ["sha1"]),
    ("raw_data.basename", "../a"),
    ("raw_data.basename", "/etc/passwd"),
    ("raw_data.basename", "a\0b"),
    ("raw_data.basename", "\ud800"),
    ("raw_data.basename", "a" * 10**5),
    ("raw_data.basename", ""),
    ("raw_data.basename", "index.json"),
    ("raw_data.basename", ".fetched_by_jest_loader.json"),
    ("raw_data.basename", ".a.part/a"),
    ("raw_data.basename", 3),
    ("zip_data", 7),
    ("compression", "lzma"),
    ("compression", ["zstd"]),
]


@pytest.mark.parametrize(("field", "value"), LIES, ids=map(str, range(len(LIES))))
def test_an_index_that_lies_is_named_with_its_field(packed, field, value):
    def change(info):
        *outer, name = field.split(".")
        (info[outer[0]] if outer else info)[name] = value

    named = rf"index.json is not an MDS index of version 2: of shard 0, {field} must be"
    with pytest.raises(ValueError, match=named) as found:
        MdsSource(with_index(packed, change), batch_size=2)
    assert len(str(found.value)) < 800
    assert str(found.value).isprintable()


WRONG = {
    "nested": b"[" * 10**6,
    "nested within": b'{"version": 2, "shards": ' + b"[" * 10**5 + b"]" * 10**5 + b"}",
    "utf-16": '{"version": 2}'.encode("utf-16"),
    "latin-1": '{"version": "\xe4"}'.encode("latin-1"),
    "long": b'{"version": 2, "shards": [{"format": "' + b"x" * 10**6 + b'"}]}',
    "list": b"[]",
    "number": b"7",
    "no list": b'{"version": 2, "shards": 7}',
    "controls": b'{"version": "\\u001b[2J", "shards": []}',
    "entry": b'{"version": 2, "shards": [7]}',
    "digits": b'{"version": 2, "shards": ' + b"9" * 10**5 + b"}",
}


@pytest.mark.parametrize("content", WRONG.values(), ids=WRONG)
def test_what_is_no_index_is_said_in_a_line(packed, content):
    (packed / "index.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"index.json is not an MDS index of version 2: ") as found:
        MdsSource(packed, batch_size=2)
    assert len(str(found.value)) < 800
    assert str(found.value).isprintable()


@pytest.mark.parametrize("prefix", ["", "./"])
def test_a_shard_that_is_listed_twice_is_named(packed, prefix):
    index = json.loads((packed / "index.json").read_text())
    again = json.loads(json.dumps(index["shards"][0]))
    again["raw_data"] |= {"basename": prefix + again["raw_data"]["basename"], "hashes": {}}
    again["zip_data"] = None
    (packed / "index.json").write_text(json.dumps({**index, "shards": [*index["shards"], again]}))
    with pytest.raises(ValueError, match=r"file must be listed once, but shard\.00000\.mds is"):
        MdsSource(packed, batch_size=2)


def test_an_index_may_begin_with_a_byte_order_mark(packed):
    index = packed / "index.json"
    index.write_bytes(b"\xef\xbb\xbf" + index.read_bytes())
    assert next(iter(MdsSource(packed, batch_size=4, shuffle=False)))["size"].tolist() == [
        *range(4)
    ]
