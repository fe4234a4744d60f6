"""Options of a source that are of another type are refused in the words of the argument."""

import numpy as np
import pytest

from jest_loader.adapters.mds import MdsSource, MdsStream
from jest_loader.adapters.zarr import ZarrSource
from jest_loader.pack import write_mds, write_zarr

WRONG = [
    *[(name, value) for name in ("shuffle", "drop_last") for value in ("no", None, 1, 0.0, [])],
    *[("id_column", value) for value in (3, "", True, b"id", ["id"])],
    *[("seed", value) for value in ("x", -1, 2**64, 1.5, True, None, float("nan"))],
    *[("batch_size", value) for value in ("2", 0, 2.0, True, None, np.nan)],
    *[("window_rows", value) for value in ("2", 0, 2.5, False)],
    *[("columns", value) for value in (3, "number", [1], [], [None, "number"])],
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rows = [{"number": number} for number in range(8)]
    write_mds(folder / "mds", {"number": "int"}, rows)
    write_zarr(folder / "zarr", {"number": "int"}, rows)
    return {"mds": (MdsSource, folder / "mds"), "zarr": (ZarrSource, folder / "zarr")}


@pytest.mark.parametrize("kind", ["mds", "zarr"])
@pytest.mark.parametrize(("name", "value"), WRONG, ids=map(str, range(len(WRONG))))
def test_an_option_of_another_type_is_named(folders, kind, name, value):
    source, path = folders[kind]
    with pytest.raises(ValueError, match=rf"^{name} must be "):
        source(path, **{"batch_size": 2, name: value})


@pytest.mark.parametrize("kind", ["mds", "zarr"])
def test_flags_of_numpy_are_flags(folders, kind):
    source, path = folders[kind]
    batches = source(path, batch_size=np.int64(3), shuffle=np.bool_(False), drop_last=np.False_)
    assert [batch["number"].tolist() for batch in batches] == [[0, 1, 2], [3, 4, 5], [6, 7]]


@pytest.mark.parametrize("value", ["no", None, 1], ids=repr)
@pytest.mark.parametrize(
    ("kind", "name"), [("mds", "allow_pickle"), ("zarr", "fill_missing_chunks")]
)
def test_nothing_is_allowed_by_what_is_no_flag(folders, kind, name, value):
    source, path = folders[kind]
    with pytest.raises(ValueError, match=f"{name} must be True or False, got"):
        source(path, batch_size=2, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("path", 3),
        ("path", None),
        ("local", 3),
        ("limit_bytes", "1"),
        ("limit_bytes", 0),
        ("limit_bytes", True),
        ("proportion", "1"),
        ("proportion", float("nan")),
        ("proportion", True),
    ],
    ids=str,
)
def test_a_stream_of_another_type_is_named(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be "):
        MdsStream(**{"path": "theirs", "local": "mine", name: value})
