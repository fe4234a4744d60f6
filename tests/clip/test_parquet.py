"""A run on Parquet files gives what it gives on the same rows as MDS shards."""

from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from jest_loader.adapters.parquet import ParquetSource
from jest_loader.adapters.tar import TarSource
from jest_loader.clip.loading.columns import open_shards
from jest_loader.clip.train import train
from tests.adapters.tars import write_shards
from tests.clip.test_data import BAD_ROW, NUM_ROWS, jpeg, one_epoch


def files(folder: Path, bad_rows: tuple[int, ...] = ()) -> Path:
    """The rows of ``packed`` in two files; bad ones lack their picture."""
    folder.mkdir()
    for number, rows in enumerate((range(50), range(50, NUM_ROWS))):
        images = [None if n in bad_rows else {"bytes": jpeg(n), "path": "x.jpg"} for n in rows]
        texts = [f"thing {n % 8}" for n in rows]
        lists = [["unread"]] * len(rows)
        table = pa.table({"image": images, "caption": texts, "tags": lists})
        parquet.write_table(table, folder / f"train-{number}.parquet", row_group_size=20)
    return folder / "train-*.parquet"


@pytest.mark.parametrize("name", ["uniform", "live", "cached"])
def test_a_run_on_parquet_files_skips_and_names_bad_rows(name, tmp_path, caplog):
    path = files(tmp_path / "data", (BAD_ROW,))
    run = train(one_epoch(path, tmp_path / "run", name))
    assert run.counts.skipped == 1
    assert run.counts.trained == (95 if name == "uniform" else 48)
    assert f"row {BAD_ROW} of {tmp_path}/data/train-0.parquet: its image is null" in caplog.text


def test_parquet_files_are_told_from_tars_and_read_by_column(tmp_path):
    folder = files(tmp_path / "data").parent
    assert isinstance(open_shards(folder, batch_size=8), ParquetSource)
    (batch,) = open_shards(folder, ("caption", ""), batch_size=NUM_ROWS, shuffle=False)
    assert [*batch] == ["caption", "skip_reason", "sample_id"]
    assert batch["caption"][9] == "thing 1"
    write_shards(folder)
    assert isinstance(open_shards(folder, batch_size=8), TarSource)
