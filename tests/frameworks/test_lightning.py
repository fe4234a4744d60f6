"""JestCallback with Lightning's own Trainer: exact from each checkpoint, loud where misused."""

import logging

import lightning.pytorch as lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from jest_loader import Schedule
from jest_loader.adapters.lightning import JestCallback
from jest_loader.testing.conformance import Trained, check_training
from tests.frameworks.toy import (
    TwoTower,
    assert_no_row_is_shared,
    dataset,
    loader,
    pairs,
    run_ranks,
)

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
pytestmark = pytest.mark.filterwarnings("ignore")


class Module(lightning.LightningModule):
    """Keeps the numbers of what it was trained on."""

    def __init__(self, *, counts_steps: bool = False) -> None:
        super().__init__()
        self.model, self.seen, self.evaluated = TwoTower(1), [], []
        self.counts_steps = counts_steps

    def training_step(self, batch, index):
        self.seen.append(batch["id"].tolist())
        return self.model(batch)

    def validation_step(self, batch, index):
        self.evaluated.append(len(batch["id"]))
        self.log("loss", self.model(batch))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        if not self.counts_steps:
            return optimizer
        steps = self.trainer.estimated_stepping_batches  # Lightning then opens the loader early.
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def trainer(**options):
    options = {
        "max_epochs": 3, "accelerator": "cpu", "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False, "callbacks": [JestCallback()],
        **options,
    }  # fmt: skip
    return lightning.Trainer(**options)


def fit(make=dataset, checkpoint=None, validates=False, counts_steps=False, **options):
    module = Module(counts_steps=counts_steps)
    run = trainer(**options)
    validation = DataLoader(pairs(32), batch_size=16) if validates else None
    run.fit(module, make(module.model), validation, ckpt_path=checkpoint)
    return module, run


SAVING = {
    "each step": {"every_n_train_steps": 1},
    "each epoch": {"every_n_epochs": 1},
    "each epoch by a metric": {"monitor": "loss"},
}


@pytest.mark.parametrize("limit", [1.0, 3], ids=["whole", "limited"])
@pytest.mark.parametrize("counts_steps", [False, True], ids=["plain", "counts steps"])
@pytest.mark.parametrize("saving", SAVING)
def test_a_run_goes_on_exactly_from_each_checkpoint(saving, counts_steps, limit, tmp_path):
    saves = ModelCheckpoint(tmp_path, "{step}-{epoch}", save_top_k=-1, **SAVING[saving])
    options = {
        "validates": "metric" in saving, "counts_steps": counts_steps, "limit_train_batches": limit
    }  # fmt: skip
    size = 4 if limit == 1.0 else limit

    def run(checkpoint):
        saving = {"enable_checkpointing": True, "callbacks": [JestCallback(), saves]}
        module, run = fit(checkpoint=checkpoint, **options, **({} if checkpoint else saving))
        assert run.global_step == 3 * size
        states = [
            (torch.load(file, weights_only=False)["global_step"], file)
            for file in tmp_path.glob("*.ckpt")
        ]
        return Trained([module.seen], states, module.state_dict())

    whole = check_training(run, steps_per_epoch=size)
    assert len(whole.states) == (3 * size if saving == "each step" else 3)


@pytest.mark.parametrize("every", [1, 2, 3, 5])
def test_a_run_that_is_stopped_again_and_again_goes_on_exactly(every, tmp_path):
    """Lightning loses count of batches at some resumes, and then takes a step too many."""
    whole, _ = fit(max_epochs=5)
    rows = []

    class Stops(lightning.Callback):
        """As a run that is killed two steps after it has saved."""

        def on_train_batch_end(self, trainer, module, *_):
            if trainer.global_step - self.start == every + 2:
                raise KeyboardInterrupt

        def on_train_start(self, trainer, module):
            self.start = trainer.global_step

    for start in range(0, 20, every):
        saves = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=every, save_top_k=-1)
        callbacks = [JestCallback(), saves, Stops()]
        module = Module()
        run = trainer(max_epochs=5, callbacks=callbacks, enable_checkpointing=True)
        checkpoint = tmp_path / f"step={start}.ckpt" if start else None
        try:
            run.fit(module, dataset(module.model), ckpt_path=checkpoint)
        except (KeyboardInterrupt, SystemExit):
            rows += module.seen[:every]
        else:
            rows += module.seen
            break
    assert rows == whole.seen
    assert run.global_step == 20


def test_epochs_have_other_rows_and_the_validation_is_whole():
    module, run = fit(validates=True, num_sanity_val_steps=0)
    assert run.num_training_batches == 4
    assert module.evaluated == [16, 16] * 3
    epochs = [str(module.seen[start : start + 4]) for start in (0, 4, 8)]
    assert len({*epochs}) == 3


def test_what_was_chosen_is_logged():
    class Keeps(lightning.Callback):
        def on_train_end(self, trainer, module):
            self.metrics = {**trainer.logged_metrics}

    keeps = Keeps()
    fit(callbacks=[JestCallback(), keeps], log_every_n_steps=2)
    assert keeps.metrics["jest/score"] > keeps.metrics["jest/uniform_score"]
    assert keeps.metrics["jest/scoring_ms"] > 0


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
def test_candidates_are_scored_in_the_precision_of_the_model(precision):
    """Lightning casts what is trained on to bf16 and leaves the candidates as they are."""
    scored = set()

    def make(model):
        model.image.register_forward_hook(
            lambda _, __, rows: None if rows.requires_grad else scored.add(rows.dtype)
        )
        return dataset(model)

    module, run = fit(make, precision=precision, max_epochs=1)
    assert run.global_step == len(module.seen) == 4
    assert scored == {torch.bfloat16 if precision == "bf16-true" else torch.float32}


class Data(lightning.LightningDataModule):
    """A dataset that is made once, whose epochs grow as uniform steps read less."""

    def __init__(self, model) -> None:
        super().__init__()
        self.dataset = dataset(model, schedule=Schedule(num_steps=24, stop_fraction=0.25))

    def train_dataloader(self):
        return self.dataset


def fit_growing(checkpoint=None, **options):
    module = Module()
    trainer(**options).fit(module, Data(module.model), ckpt_path=checkpoint)
    return module


def test_a_schedule_that_changes_the_length_goes_on_over_epochs(tmp_path):
    saves = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    reloading = {"max_epochs": 2, "reload_dataloaders_every_n_epochs": 1}
    whole = fit_growing(**reloading, enable_checkpointing=True, callbacks=[JestCallback(), saves])
    assert len(whole.seen) == 4 + 14  # In the second epoch 2 are selected and 12 uniform.
    for done in (1, 3, 5, 11, 17):
        resumed = fit_growing(tmp_path / f"step={done}.ckpt", **reloading)
        assert resumed.seen == whole.seen[done:]
    with pytest.raises(
        ValueError, match="cannot go on from the last step of an epoch to one of an"
    ):
        fit_growing(tmp_path / "step=4.ckpt", **reloading)


def test_a_length_that_the_trainer_does_not_know_is_refused():
    with pytest.raises(ValueError, match=r"has now 14 .*reload_dataloaders_every_n_epochs=1"):
        fit_growing(max_epochs=2)


def test_another_dataset_each_epoch_is_refused():
    class Anew(Data):
        def train_dataloader(self):
            return dataset(self.dataset.scorer.learner.model)

    module = Module()
    run = trainer(max_epochs=2, reload_dataloaders_every_n_epochs=1)
    with pytest.raises(ValueError, match="must return the same JestDataset each time"):
        run.fit(module, Anew(module.model))


def test_a_dataset_to_evaluate_on_is_refused():
    module = Module()
    data = dataset(module.model)
    with pytest.raises(ValueError, match="must not be evaluated on, since it leaves most rows out"):
        trainer().fit(module, data, dataset(module.model))
    with pytest.raises(ValueError, match="must not be evaluated on"):
        trainer().validate(module, dataset(module.model))


def test_a_source_without_state_ends_the_run_before_its_first_checkpoint(tmp_path):
    def plain(model):
        return dataset(model, DataLoader(pairs(), batch_size=8))

    assert len(fit(plain)[0].seen) == 12
    saves = [JestCallback(), ModelCheckpoint(tmp_path)]
    with pytest.raises(ValueError, match="of a DataLoader can be neither saved nor restored"):
        fit(plain, enable_checkpointing=True, callbacks=saves)


def test_accumulated_gradients_must_be_asked_for():
    with pytest.raises(ValueError, match=r"accumulate_grad_batches must be 1 .* got 2: a sub"):
        fit(accumulate_grad_batches=2)
    callbacks = [JestCallback(accumulation=True)]
    _, run = fit(accumulate_grad_batches=2, callbacks=callbacks)
    assert run.global_step == 6


@pytest.mark.parametrize(
    ("make", "num_found"),
    [(lambda model: loader(), 0), (lambda model: [dataset(model), dataset(model)], 2)],
    ids=["none", "two"],
)
def test_the_training_loader_must_be_one_dataset(make, num_found):
    with pytest.raises(
        ValueError, match=f"needs one JestDataset as the .* loader, got {num_found}"
    ):
        fit(make)


def test_a_loader_around_the_dataset_does_as_well():
    module, _ = fit(lambda model: DataLoader(dataset(model), batch_size=None))
    assert module.seen == fit()[0].seen


RANKS = """
import json, sys
import torch
from torch.utils.data.distributed import DistributedSampler
from torchdata.stateful_dataloader import StatefulDataLoader
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from tests.frameworks.test_lightning import JestCallback, Module, trainer
from tests.frameworks.toy import dataset, pairs
import lightning.pytorch as lightning

folder = sys.argv[1]

class Data(lightning.LightningDataModule):
    def train_dataloader(self):
        data = pairs()
        loader = StatefulDataLoader(data, batch_size=4, sampler=DistributedSampler(data, seed=3))
        return dataset(self.trainer.lightning_module.model, loader, size=4)

def fit(checkpoint=None, **options):
    module = Module()
    strategy = DDPStrategy(process_group_backend="gloo")
    run = trainer(max_epochs=2, devices=2, strategy=strategy, **options)
    run.fit(module, Data(), ckpt_path=checkpoint)
    return run.global_rank, [module.seen, module.model.image.weight.sum().item()]

saves = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
rank, whole = fit(enable_checkpointing=True, callbacks=[JestCallback(), saves])
_, resumed = fit(f"{folder}/step=4.ckpt")
with open(f"{folder}/rank{rank}.json", "w") as file:
    json.dump([whole, resumed], file)
"""


@pytest.mark.slow
def test_two_ranks_share_no_row_and_go_on_exactly(tmp_path):
    ((first, weight), resumed), ((second, other), also) = run_ranks(RANKS, tmp_path)
    assert weight == other
    assert len(first) == len(second) == 8
    assert_no_row_is_shared(first, second)
    assert [resumed, also] == [[first[4:], weight], [second[4:], weight]]
