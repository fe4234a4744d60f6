"""Reading a Zarr group runs nothing that its arrays name."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import zarr

from jest_loader.adapters.zarr import ZarrSource

numcodecs = pytest.importorskip("numcodecs", reason="comes with zarr")


class Planted:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def write(path: Path, dtype: str, filters, compressor, payload: bytes) -> None:
    array = path / "x"
    array.mkdir(parents=True)
    (path / ".zgroup").write_text('{"zarr_format": 2}')
    (array / ".zarray").write_text(
        json.dumps(
            {
                "zarr_format": 2, "shape": [4], "chunks": [4], "dtype": dtype, "order": "C",
                "fill_value": 0, "filters": filters, "compressor": compressor,
            }
        )
    )  # fmt: skip
    (array / "0").write_bytes(payload)


PICKLE, TEXT, ZLIB = {"id": "pickle"}, {"id": "vlen-utf8"}, {"id": "zlib", "level": 1}


@pytest.mark.parametrize(
    ("dtype", "filters", "compressor"),
    [
        ("<f4", [PICKLE], None),
        ("<f4", None, PICKLE),
        ("|O", [PICKLE], None),
        ("|O", [TEXT, PICKLE], None),
        ("|O", [TEXT, PICKLE], ZLIB),
        ("|O", [PICKLE, TEXT], None),
    ],
)
def test_pickles_are_not_read(tmp_path, dtype, filters, compressor):
    payload = pickle.dumps(Planted(tmp_path / "ran"))
    if compressor == ZLIB:
        payload = bytes(numcodecs.Zlib().encode(payload))
    write(tmp_path / "data", dtype, filters, compressor, payload)
    with pytest.raises(ValueError, match=r"cannot be used|codecs that only decode, got 'pickle'"):
        list(ZarrSource(tmp_path / "data", batch_size=4))
    assert not (tmp_path / "ran").exists()


def test_codecs_that_only_decode_are_read(tmp_path):
    group = zarr.open_group(tmp_path / "two", mode="w", zarr_format=2)
    for number, filters in enumerate(([], [numcodecs.Delta("<i4")], [numcodecs.Shuffle(4)])):
        group.create_array(
            f"x{number}", data=np.arange(4, dtype="<i4"), chunks=(2,), filters=filters or None,
            compressors=numcodecs.Zstd(),
        )  # fmt: skip
    (batch,) = ZarrSource(tmp_path / "two", batch_size=4, shuffle=False)
    assert all(batch[f"x{number}"].tolist() == [0, 1, 2, 3] for number in range(3))
    group = zarr.open_group(tmp_path / "three", mode="w")
    group.create_array("x", data=np.arange(4), chunks=(1,), shards=(2,))
    (batch,) = ZarrSource(tmp_path / "three", batch_size=4, shuffle=False)
    assert batch["x"].tolist() == [0, 1, 2, 3]
