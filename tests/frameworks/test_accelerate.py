"""A dataset registered with Accelerate goes on exactly from each state that it saves."""

import pytest
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from tests.frameworks.toy import TwoTower, assert_no_row_is_shared, dataset, pairs, run_ranks

pytestmark = pytest.mark.filterwarnings("ignore")
NUM_EPOCHS, STEPS = 3, 4


def train(accelerator, folder, data, model, optimizer, *, saves):
    """The numbers of each batch from where the dataset stands, saving after each or none."""
    seen = []
    for epoch in range(data.epoch, NUM_EPOCHS):
        data.set_epoch(epoch)
        for batch in data:
            seen.append(batch["id"].tolist())
            optimizer.zero_grad()
            accelerator.backward(model(batch))
            optimizer.step()
            if saves:
                accelerator.save_state(folder / f"{data.counts.trained}")
        if saves:
            accelerator.save_state(folder / f"end{epoch}")
    return seen


def prepared():
    """What a script makes before it trains or loads a state."""
    accelerator = Accelerator(cpu=True)
    model = TwoTower(1)
    data = dataset(model)
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-2))
    accelerator.register_for_checkpointing(data)
    return accelerator, data, model, optimizer


def test_a_run_goes_on_exactly_from_each_state(tmp_path):
    accelerator, data, model, optimizer = prepared()
    whole = train(accelerator, tmp_path, data, model, optimizer, saves=True)
    assert len(whole) == NUM_EPOCHS * STEPS
    states = {f"{8 * done}": done for done in range(1, len(whole))}
    states |= {f"end{epoch}": (epoch + 1) * STEPS for epoch in range(NUM_EPOCHS - 1)}
    for name, done in states.items():
        accelerator, data, resumed, optimizer = prepared()
        accelerator.load_state(tmp_path / name)
        assert train(accelerator, tmp_path, data, resumed, optimizer, saves=False) == whole[done:]
        assert torch.equal(resumed.image.weight, model.image.weight)


def test_a_prepared_loader_trains_and_says_that_it_is_not_resumed():
    accelerator = Accelerator(cpu=True)
    data = dataset(TwoTower(1), accelerator.prepare(DataLoader(pairs(), batch_size=8)))
    assert len(list(data)) == 4
    with pytest.raises(ValueError, match=r"state_dict, but it fails; pass the loader itself"):
        data.state_dict()


RANKS = """
import json, sys
import torch
from accelerate import Accelerator
from torch.utils.data.distributed import DistributedSampler
from torchdata.stateful_dataloader import StatefulDataLoader
from tests.frameworks.test_accelerate import train
from tests.frameworks.toy import TwoTower, assert_no_row_is_shared, dataset, pairs
from pathlib import Path

folder = Path(sys.argv[1])
accelerator = Accelerator(cpu=True)
rows, model = pairs(), TwoTower(1)
loader = StatefulDataLoader(rows, batch_size=4, sampler=DistributedSampler(rows, seed=3))
data = dataset(model, loader, size=4)
model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-2))
accelerator.register_for_checkpointing(data)
if len(sys.argv) > 2:
    accelerator.load_state(folder / sys.argv[2])
seen = train(accelerator, folder, data, model, optimizer, saves=len(sys.argv) == 2)
weight = model.module.image.weight.sum().item()
(folder / f"rank{accelerator.process_index}.json").write_text(json.dumps([seen, weight]))
"""


@pytest.mark.slow
def test_two_ranks_share_no_row_and_go_on_exactly(tmp_path):
    (first, weight), (second, _) = run_ranks(RANKS, tmp_path)
    assert len(first) == len(second) == NUM_EPOCHS * STEPS
    assert_no_row_is_shared(first, second)
    resumed = run_ranks(RANKS, tmp_path, "24")
    assert resumed == [[first[3:], weight], [second[3:], weight]]


AROUND = """
import json, sys, time
from pathlib import Path
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler
from torchdata.stateful_dataloader import StatefulDataLoader
from tests.frameworks.toy import TwoTower, dataset, pairs

dispatch = {"dispatched": True, "dealt": False}[sys.argv[2]]
accelerator = Accelerator(
    cpu=True, dataloader_config=DataLoaderConfiguration(dispatch_batches=dispatch)
)
rows = pairs()
loader = StatefulDataLoader(rows, batch_size=4, sampler=DistributedSampler(rows, seed=3))
data = dataset(TwoTower(1), loader, size=4)
prepared = accelerator.prepare(DataLoader(data, batch_size=None if dispatch else 1))
started = time.monotonic()
try:
    next(iter(prepared))
    said = "nothing"
except ValueError as error:
    said = str(error)
found = [said, time.monotonic() - started]
Path(sys.argv[1], f"rank{accelerator.process_index}.json").write_text(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "loader"),
    [("dispatched", "DataLoaderDispatcher"), ("dealt", "IterableDatasetShard")],
)
def test_a_dataset_within_a_prepared_loader_is_refused_on_all_ranks(tmp_path, kind, loader):
    for said, waited_s in run_ranks(AROUND, tmp_path, kind):
        assert f"Accelerate's {loader}" in said
        assert said.endswith("prepare the model and the optimizer only, and iterate the dataset")
        assert waited_s < 10
