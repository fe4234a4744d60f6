"""A run, a cache and an evaluation on tars give what they give on the same rows as MDS shards."""

from dataclasses import replace
from pathlib import Path

import pytest

from jest_loader.adapters.tar import TarSource
from jest_loader.clip.loading.columns import open_shards
from jest_loader.clip.train import train
from tests.adapters.tars import write_tar
from tests.clip.test_data import BAD_ROW, NUM_ROWS, jpeg, one_epoch, packed


def tars(folder: Path, bad_rows: tuple[int, ...] = ()) -> str:
    """The rows of ``packed`` in two tars; bad ones lack their picture."""
    folder.mkdir()
    for shard, numbers in enumerate((range(50), range(50, NUM_ROWS))):
        members = {}
        for row in numbers:
            if row not in bad_rows:
                members[f"{row:03d}.jpg"] = jpeg(row)
            members[f"{row:03d}.txt"] = f"thing {row % 8}".encode()
        write_tar(folder / f"{shard:05d}.tar", members)
    return f"{folder}/{{00000..00001}}.tar"


@pytest.mark.parametrize("name", ["uniform", "live", "cached"])
def test_a_run_on_tars_skips_and_names_what_lacks_a_member(name, tmp_path, caplog):
    path = Path(tars(tmp_path / "tars", (BAD_ROW,)))
    run = train(one_epoch(path, tmp_path / "run", name))
    assert run.counts.skipped == 1
    assert run.counts.trained == (95 if name == "uniform" else 48)
    assert f"example '{BAD_ROW:03d}' of {tmp_path}/tars/00000.tar: it has no .jpg" in caplog.text


def test_columns_may_be_named_by_their_members(tmp_path):
    path = tars(tmp_path / "tars")
    (batch,) = open_shards(Path(path), ("jpg", "txt"), batch_size=NUM_ROWS, shuffle=False)
    assert [*batch] == ["jpg", "txt", "skip_reason", "sample_id"]
    assert batch["txt"][3] == "thing 3"
    config = one_epoch(Path(path), tmp_path / "run", "uniform")
    data = replace(config.data, image_column="jpg", caption_column="txt")
    assert train(replace(config, data=data)).counts.trained == NUM_ROWS


def test_tars_are_told_from_shards(tmp_path):
    tars(tmp_path / "tars")
    assert isinstance(open_shards(tmp_path / "tars", batch_size=8), TarSource)
    assert not isinstance(open_shards(packed(tmp_path / "mds"), batch_size=8), TarSource)
    with pytest.raises(ValueError, match=r"WebDataset tars or Parquet files"):
        open_shards(tmp_path, batch_size=8)
