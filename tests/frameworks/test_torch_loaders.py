"""Loaders of torch and torchdata, and our own sources, by the table of docs/sources.md."""

from pathlib import Path

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, RandomSampler
from torchdata import nodes
from torchdata.stateful_dataloader import StatefulDataLoader

from jest_loader.pack import write_mds, write_zarr
from tests.adapters.tars import write_tar
from tests.frameworks.sources import LEFT_OVER, WHOLE, Measuring, check, check_ranks
from tests.helpers import numbered_batches
from tests.loader.builders import Rows


def number(batch):
    return batch["number"]


def of_rank(num_rows):
    """Of the rank that asks, or of one that is alone."""
    is_one = not torch.distributed.is_initialized()
    return DistributedSampler(Rows(num_rows), *((1, 0) if is_one else ()))


def joined(rows):
    return {"number": torch.tensor(rows)}


def node(num_rows):
    return nodes.Mapper(nodes.Batcher(nodes.SamplerWrapper(of_rank(num_rows)), 10), joined)


LOADERS = {
    "a list of batches": lambda n: numbered_batches(n // 10, 10),
    "`DataLoader(data, n, shuffle=True)`": lambda n: DataLoader(Rows(n), 10, shuffle=True),
    "`DataLoader(data, batch_sampler=...)`": lambda n: DataLoader(
        Rows(n), batch_sampler=BatchSampler(RandomSampler(Rows(n)), 10, False)
    ),
    "`DataLoader(..., sampler=DistributedSampler(data))`": lambda n: DataLoader(
        Rows(n), 10, sampler=of_rank(n)
    ),
    "`StatefulDataLoader(data, n, shuffle=True)`": lambda n: StatefulDataLoader(
        Rows(n), 10, shuffle=True
    ),
    "`StatefulDataLoader(..., sampler=DistributedSampler(data))`": lambda n: StatefulDataLoader(
        Rows(n), 10, sampler=of_rank(n)
    ),
    "`nodes.Loader(node, restart_on_stop_iteration=False)`": lambda n: nodes.Loader(
        node(n), restart_on_stop_iteration=False
    ),
    "`nodes.Loader(node)`, or a node": lambda n: nodes.Loader(node(n)),
}


def make(name):
    return LOADERS[name](WHOLE)


@pytest.mark.parametrize("name", LOADERS)
def test_a_loader_does_what_the_page_says(name):
    check(name, LOADERS[name], number)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOADERS)
def test_two_ranks_do_what_the_page_says(name):
    check_ranks(name, make, number, name)


def test_a_node_without_a_loader_is_read_and_not_saved():
    data = Measuring(node, number)
    assert (data.length(), data.order()) == ("no", "each pass")
    with pytest.raises(
        ValueError, match=r"state of a \w+Mapper can be neither .* it has no load_state_dict"
    ):
        data.dataset().state_dict()


def test_a_loader_of_nodes_that_restarts_says_what_to_write():
    data = Measuring(LOADERS["`nodes.Loader(node)`, or a node"], number).dataset()
    with pytest.raises(ValueError, match=r"use Loader\(node, restart_on_stop_iteration=False\)"):
        data.state_dict()


def mds(folder):
    from jest_loader.adapters.mds import MdsSource

    return MdsSource(folder, batch_size=10)


def zarr(folder):
    from jest_loader.adapters.zarr import ZarrSource

    return ZarrSource(folder, batch_size=10)


def tar(folder):
    from jest_loader.adapters.tar import TarSource

    return TarSource(folder, batch_size=10, columns={"number": "json:n:int"})


def write_tars(folder, _, rows):
    Path(folder).mkdir()
    members = {f"{row['number']:03d}.json": b'{"n": %d}' % row["number"] for row in rows}
    write_tar(Path(folder, "00000.tar"), members)


def parquet(folder):
    from jest_loader.adapters.parquet import ParquetSource

    return ParquetSource(folder, batch_size=10)


def write_parquet(folder, _, rows):
    import pyarrow as pa
    from pyarrow import parquet

    Path(folder).mkdir()
    parquet.write_table(pa.Table.from_pylist(rows), Path(folder, "a.parquet"), row_group_size=4)


NEEDED = {"mds": "streaming", "zarr": "zarr", "parquet": "pyarrow"}
OURS = {
    "`MdsSource`": (mds, write_mds, "int64"),
    "`ZarrSource`": (zarr, write_zarr, "int64"),
    "`TarSource`": (tar, write_tars, "int64"),
    "`ParquetSource`": (parquet, write_parquet, "int64"),
}


@pytest.fixture(params=OURS)
def ours(request, tmp_path):
    """A source of ours: its name, what opens it, and folders by their number of rows."""
    source, write, kind = OURS[request.param]
    if source is not tar:
        pytest.importorskip(NEEDED[source.__name__])
    folders = {n: str(tmp_path / str(n)) for n in (WHOLE, LEFT_OVER)}
    for num_rows, folder in folders.items():
        write(folder, {"number": kind}, [{"number": row} for row in range(num_rows)])
    return request.param, source, folders


def test_our_sources_do_what_the_page_says(ours):
    name, source, folders = ours
    check(name, lambda num_rows: source(folders[num_rows]), number)


@pytest.mark.slow
def test_our_sources_do_on_two_ranks_what_the_page_says(ours):
    name, source, folders = ours
    check_ranks(name, source, number, folders[WHOLE])
