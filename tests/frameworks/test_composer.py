"""JestCallback with Composer's own Trainer: exact from each checkpoint, loud where misused."""

import pytest
import torch
from torch.utils.data import DataLoader

from jest_loader import Schedule
from tests.frameworks.toy import TwoTower, assert_no_row_is_shared, dataset, pairs, run_ranks

pytest.importorskip("composer", reason="`make frameworks` has an environment for Composer")
import composer
from composer.core import Evaluator
from composer.loggers import InMemoryLogger

from jest_loader.adapters.composer import JestCallback

pytestmark = pytest.mark.filterwarnings("ignore")


class Learner(composer.ComposerModel):
    """Keeps the numbers of what it was trained on."""

    def __init__(self):
        super().__init__()
        self.model, self.seen, self.evaluated = TwoTower(1), [], []

    def forward(self, batch):
        return self.model(batch)

    def loss(self, outputs, batch):
        self.seen.append(batch["id"].tolist())
        return outputs

    def eval_forward(self, batch, outputs=None):
        self.evaluated.append(len(batch["id"]))
        return self(batch)


def wrapped(model, *arguments, **options):
    return DataLoader(dataset(model, *arguments, **options), batch_size=None, num_workers=0)


def trainer(make=wrapped, learner=None, **options):
    learner = learner or Learner()
    options = {
        "max_duration": "3ep", "device": "cpu", "progress_bar": False, "seed": 1,
        "device_train_microbatch_size": 8, "callbacks": [JestCallback()],
        "optimizers": torch.optim.AdamW(learner.parameters(), lr=1e-2), **options,
    }  # fmt: skip
    return composer.Trainer(model=learner, train_dataloader=make(learner.model), **options)


def fit(*arguments, **options):
    """What was trained and evaluated on, and the trainer."""
    run = trainer(*arguments, **options)
    learner = run.state.model
    run.fit()
    run.close()
    return learner, run


def saving(folder, interval):
    return {
        "save_folder": str(folder), "save_interval": interval, "save_filename": "{batch}.pt",
        "save_latest_filename": None, "save_num_checkpoints_to_keep": -1,
    }  # fmt: skip


@pytest.mark.parametrize("evaluates", [False, True], ids=["plain", "evaluating"])
@pytest.mark.parametrize("interval", ["1ba", "1ep"])
def test_a_run_goes_on_exactly_from_each_checkpoint(interval, evaluates, tmp_path):
    options = {"eval_dataloader": DataLoader(pairs(36), batch_size=16)} if evaluates else {}
    whole, run = fit(**options, **saving(tmp_path, interval))
    assert run.state.timestamp.batch.value == len(whole.seen) == 12
    files = sorted(int(file.stem) for file in tmp_path.glob("*.pt"))
    assert files == (list(range(1, 13)) if interval == "1ba" else [4, 8, 12])
    for done in files[:-1]:
        resumed, _ = fit(**options, load_path=str(tmp_path / f"{done}.pt"))
        assert resumed.seen == whole.seen[done:], done
        assert torch.equal(resumed.model.image.weight, whole.model.image.weight), done


def test_epochs_have_other_rows_and_the_validation_is_whole():
    learner, _ = fit(eval_dataloader=DataLoader(pairs(36), batch_size=16))
    assert learner.evaluated == [16, 16, 4] * 3
    assert len({str(learner.seen[start : start + 4]) for start in (0, 4, 8)}) == 3


def test_what_was_chosen_is_logged():
    logger = InMemoryLogger()
    fit(callbacks=[JestCallback(batch_log_interval=3)], loggers=[logger])
    scores = {name: logger.data[f"jest/{name}"] for name in ("score", "uniform_score")}
    assert [time.batch.value for time, _ in scores["score"]] == [3, 6, 9, 12]
    for (_, score), (_, uniform) in zip(scores["score"], scores["uniform_score"], strict=True):
        assert score > uniform
    with pytest.raises(ValueError, match="batch_log_interval must be a whole number of at least 1"):
        JestCallback(batch_log_interval=0)


def growing(model):
    return wrapped(model, schedule=Schedule(num_steps=24, stop_fraction=0.25))


def test_a_schedule_that_changes_the_length_goes_on(tmp_path):
    options = {"max_duration": "2ep"}
    whole, _ = fit(growing, **options, **saving(tmp_path, "1ba"))
    assert len(whole.seen) == 4 + 14  # In the second epoch 2 are selected and 12 uniform.
    for done in (1, 3, 4, 5, 11, 17):
        resumed, _ = fit(growing, **options, load_path=str(tmp_path / f"{done}.pt"))
        assert resumed.seen == whole.seen[done:], done


def test_shortened_epochs_go_on_from_their_ends(tmp_path):
    options = {"train_subset_num_batches": 3}
    whole, _ = fit(**options, **saving(tmp_path, "1ba"))
    fit(**options, **saving(tmp_path / "ends", "1ep"))
    assert len(whole.seen) == 9
    for done in (3, 6):
        resumed, _ = fit(**options, load_path=str(tmp_path / f"ends/{done}.pt"))
        assert resumed.seen == whole.seen[done:]
    with pytest.raises(ValueError, match=r"cannot go on within an epoch .* after 2 of its batches"):
        fit(**options, load_path=str(tmp_path / "2.pt"))


def test_a_loader_given_to_fit_goes_on_as_well(tmp_path):
    whole, _ = fit(**saving(tmp_path, "1ba"))
    run = trainer(lambda model: None, load_path=str(tmp_path / "5.pt"))
    learner = run.state.model
    run.fit(train_dataloader=wrapped(learner.model))
    assert learner.seen == whole.seen[5:]


def test_a_dataset_to_evaluate_on_is_refused():
    learner = Learner()
    evaluator = Evaluator(
        label="held out", dataloader=wrapped(learner.model), device_eval_microbatch_size=8
    )
    with pytest.raises(ValueError, match="must not be evaluated on, since it leaves most rows out"):
        fit(learner=learner, eval_dataloader=evaluator)
    with pytest.raises(ValueError, match="must not be evaluated on"):
        trainer().eval(eval_dataloader=evaluator)


def test_a_source_without_state_ends_the_run_before_its_first_step(tmp_path):
    def plain(model):
        return wrapped(model, DataLoader(pairs(), batch_size=8))

    assert len(fit(plain)[0].seen) == 12
    run = trainer(plain, **saving(tmp_path, "1ep"))
    with pytest.raises(ValueError, match="of a DataLoader can be neither saved nor restored"):
        run.fit()
    assert run.state.model.seen == []


@pytest.mark.parametrize("size", [4, None])
def test_sub_batches_are_divided_only_where_asked_for(size):
    with pytest.raises(ValueError, match=f"the dataset's sub_batch_size, got {size} and 8: a sub"):
        fit(device_train_microbatch_size=size)
    if size is not None:
        learner, _ = fit(
            device_train_microbatch_size=size, callbacks=[JestCallback(microbatches=True)]
        )
        assert [len(seen) for seen in learner.seen] == [4] * 24


@pytest.mark.parametrize(
    "make", [dataset, lambda model: DataLoader(dataset(model))], ids=["bare", "nested"]
)
def test_the_dataset_must_be_where_composer_looks_for_its_state(make):
    with pytest.raises(ValueError, match=r"as DataLoader\(dataset, batch_size=None, num_workers"):
        fit(make)


def test_another_training_loader_is_refused():
    with pytest.raises(ValueError, match="around a JestDataset, got list"):
        fit(lambda model: DataLoader(pairs(), batch_size=8))


RANKS = """
import json, os, sys
os.environ.setdefault("NODE_RANK", "0")  # Composer's own launcher sets it, torchrun does not.
from composer.utils import dist
import torch
from torch.utils.data.distributed import DistributedSampler
from torchdata.stateful_dataloader import StatefulDataLoader
from tests.frameworks.test_composer import fit, saving, wrapped
from tests.frameworks.toy import pairs

folder = sys.argv[1]
dist.initialize_dist("cpu")

def make(model):
    rows = pairs()
    loader = StatefulDataLoader(rows, batch_size=4, sampler=DistributedSampler(rows, seed=3))
    return wrapped(model, loader, size=4)

def run(**options):
    learner, _ = fit(make, max_duration="2ep", device_train_microbatch_size=4, **options)
    return [learner.module.seen, learner.module.model.image.weight.sum().item()]

found = [run(**saving(folder, "1ba")), *(run(load_path=f"{folder}/{done}.pt") for done in (3, 4))]
with open(f"{folder}/rank{dist.get_global_rank()}.json", "w") as file:
    json.dump(found, file)
"""


@pytest.mark.slow
def test_two_ranks_share_no_row_and_go_on_exactly(tmp_path):
    ranks = run_ranks(RANKS, tmp_path)
    ((first, weight), *_), ((second, other), *_) = ranks
    assert weight == other
    assert len(first) == len(second) == 8
    assert_no_row_is_shared(first, second)
    for (seen, _), *resumed in ranks:
        assert resumed == [[seen[done:], weight] for done in (3, 4)]
