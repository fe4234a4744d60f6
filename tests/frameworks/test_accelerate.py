"""A dataset registered with Accelerate goes on exactly from each state that it saves."""

import pytest
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from jest_loader.testing.conformance import Trained, check_training
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


def prepared(source=None, **options):
    """What a script makes before it trains or loads a state."""
    accelerator = Accelerator(cpu=True)
    model = TwoTower(1)
    data = dataset(model, source, **options)
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-2))
    accelerator.register_for_checkpointing(data)
    return accelerator, data, model, optimizer


def test_a_run_goes_on_exactly_from_each_state(tmp_path):
    states = [(done, tmp_path / f"{8 * done}") for done in range(1, NUM_EPOCHS * STEPS)]
    states += [((epoch + 1) * STEPS, tmp_path / f"end{epoch}") for epoch in range(NUM_EPOCHS - 1)]

    def run(state):
        accelerator, data, model, optimizer = prepared()
        if state is not None:
            accelerator.load_state(state)
        seen = train(accelerator, tmp_path, data, model, optimizer, saves=state is None)
        return Trained([seen], states, model.state_dict())

    assert len(check_training(run, steps_per_epoch=STEPS).rows[0]) == NUM_EPOCHS * STEPS


def test_a_prepared_loader_trains_and_says_that_it_is_not_resumed():
    accelerator = Accelerator(cpu=True)
    data = dataset(TwoTower(1), accelerator.prepare(DataLoader(pairs(), batch_size=8)))
    assert len(list(data)) == 4
    with pytest.raises(ValueError, match=r"state_dict, but it fails; pass the loader itself"):
        data.state_dict()


RANKS = """
import json, sys
from pathlib import Path
from accelerate import Accelerator
from torch.utils.data.distributed import DistributedSampler
from torchdata.stateful_dataloader import StatefulDataLoader
from tests.frameworks.test_accelerate import prepared, train
from tests.frameworks.toy import pairs

folder, rows = Path(sys.argv[1]), pairs()
rank = Accelerator(cpu=True).process_index  # It begins the group that the sampler asks.

def run(saved=None):
    loader = StatefulDataLoader(rows, batch_size=4, sampler=DistributedSampler(rows, seed=3))
    accelerator, data, model, optimizer = prepared(loader, size=4)
    if saved is not None:
        accelerator.load_state(folder / saved)
    seen = train(accelerator, folder, data, model, optimizer, saves=saved is None)
    return [seen, model.module.image.weight.sum().item()]

(folder / f"rank{rank}.json").write_text(json.dumps([run(), run("24")]))
"""


@pytest.mark.slow
def test_two_ranks_share_no_row_and_go_on_exactly(tmp_path):
    ((first, weight), resumed), ((second, other), also) = run_ranks(RANKS, tmp_path)
    assert weight == other
    assert len(first) == len(second) == NUM_EPOCHS * STEPS
    assert_no_row_is_shared(first, second)
    assert [resumed, also] == [[first[3:], weight], [second[3:], weight]]


AROUND = """
import json, sys, time
from pathlib import Path
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler
from torchdata.stateful_dataloader import StatefulDataLoader
from tests.frameworks.toy import TwoTower, dataset, pairs

def refused(dispatches):
    how = DataLoaderConfiguration(dispatch_batches=dispatches)
    accelerator = Accelerator(cpu=True, dataloader_config=how)
    rows = pairs()
    loader = StatefulDataLoader(rows, batch_size=4, sampler=DistributedSampler(rows, seed=3))
    data = dataset(TwoTower(1), loader, size=4)
    prepared = accelerator.prepare(DataLoader(data, batch_size=None if dispatches else 1))
    started = time.monotonic()
    try:
        next(iter(prepared))
        said = "nothing"
    except ValueError as error:
        said = str(error)
    return [said, time.monotonic() - started]

found = [refused(True), refused(False)]
Path(sys.argv[1], f"rank{Accelerator(cpu=True).process_index}.json").write_text(json.dumps(found))
"""


@pytest.mark.slow
def test_a_dataset_within_a_prepared_loader_is_refused_on_all_ranks(tmp_path):
    for refused in run_ranks(AROUND, tmp_path):
        kinds = ("DataLoaderDispatcher", "IterableDatasetShard")
        for (said, waited_s), kind in zip(refused, kinds, strict=True):
            assert f"Accelerate's {kind}" in said
            assert said.endswith(
                "prepare the model and the optimizer only, and iterate the dataset"
            )
            assert waited_s < 10
