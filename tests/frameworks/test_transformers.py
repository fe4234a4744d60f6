"""JestTrainerMixin with transformers' own Trainer: exact from each checkpoint."""

import shutil
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerState, TrainingArguments

from jest_loader.adapters.transformers import JestTrainerMixin
from jest_loader.testing.conformance import Trained, check_training
from tests.frameworks.toy import TwoTower, assert_no_row_is_shared, dataset, pairs, run_ranks

pytestmark = pytest.mark.filterwarnings("ignore")


class Learner(TwoTower):
    """Takes a batch as keywords and returns the loss first, as models of transformers do."""

    def forward(self, image, text, **_):
        return {"loss": super().forward({"image": image, "text": text})}


class Keeps(JestTrainerMixin, Trainer):
    """Keeps the numbers of what it was trained on."""

    def __init__(self, *arguments, **keywords):
        self.seen = []
        super().__init__(*arguments, **keywords)

    def training_step(self, model, inputs, *arguments):
        self.seen.append(inputs["id"].tolist())
        return super().training_step(model, inputs, *arguments)


def trainer(folder, make=dataset, model=None, kind=Keeps, **options):
    options = {
        "output_dir": str(folder), "per_device_train_batch_size": 8, "num_train_epochs": 3,
        "learning_rate": 1e-2, "use_cpu": True, "report_to": [], "disable_tqdm": True,
        "save_steps": 1, "save_strategy": "steps", "logging_steps": 1, "seed": 1,
        "remove_unused_columns": False, **options,
    }  # fmt: skip
    return kind(model or Learner(1), TrainingArguments(**options), jest=make)


@pytest.mark.parametrize("accumulation", [1, 2, 3])
def test_a_run_goes_on_exactly_from_each_checkpoint(accumulation, tmp_path):
    folder = tmp_path / "whole"

    def run(checkpoint):
        saving = {} if checkpoint is None else {"save_strategy": "no"}
        run = trainer(folder, gradient_accumulation_steps=accumulation, **saving)
        run.train(resume_from_checkpoint=checkpoint)
        assert run.state.global_step == run.state.max_steps == {1: 12, 2: 6, 3: 6}[accumulation]
        states = [
            (torch.load(file, weights_only=True)["num_steps"], str(file.parent))
            for file in folder.glob("checkpoint-*/jest_dataset.pt")
        ]
        return Trained([run.seen], states, run.model.state_dict())

    whole = check_training(run, steps_per_epoch=4)
    assert len(whole.rows[0]) == 12
    assert len(whole.states) == {1: 12, 2: 6, 3: 6}[accumulation]


def test_the_last_checkpoint_is_found(tmp_path):
    trainer(tmp_path, max_steps=5).train()
    resumed = trainer(tmp_path)
    resumed.train(resume_from_checkpoint=True)
    assert len(resumed.seen) == 7


def test_a_checkpoint_that_was_not_saved_to_its_end_is_left_out(tmp_path, caplog):
    trainer(tmp_path, max_steps=3).train()
    # As of a run that was killed while it saved; checkpoint-3 stands for what it saved before.
    for step, part in ((4, ""), (5, '{"global_step": ')):
        shutil.copytree(tmp_path / "checkpoint-3", tmp_path / f"checkpoint-{step}")
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(part)
    (tmp_path / "checkpoint-6").mkdir()
    resumed = trainer(tmp_path, save_strategy="no")
    resumed.train(resume_from_checkpoint=True)
    assert len(resumed.seen) == 9
    assert "checkpoint-6 was not saved to its end" in caplog.text
    shutil.rmtree(tmp_path / "checkpoint-3")
    for step in (1, 2):
        shutil.rmtree(tmp_path / f"checkpoint-{step}")
    anew = trainer(tmp_path, save_strategy="no")
    anew.train(resume_from_checkpoint=True)
    assert len(anew.seen) == 12
    assert "training begins anew" in caplog.text


def test_a_checkpoint_is_whole_before_older_ones_are_deleted(tmp_path, monkeypatch):
    whole = trainer(tmp_path / "whole", save_total_limit=1)
    whole.train()
    save = TrainerState.save_to_json

    def killed(state, path):  # The last of the trainer's own files.
        assert (Path(path).parent / "jest_dataset.pt").exists()
        if state.global_step == 6:
            raise KeyboardInterrupt
        save(state, path)

    with monkeypatch.context() as patch:
        patch.setattr(TrainerState, "save_to_json", killed)
        with pytest.raises(KeyboardInterrupt):
            trainer(tmp_path, save_total_limit=1).train()
    resumed = trainer(tmp_path, save_total_limit=1)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.seen == whole.seen[5:]
    assert torch.equal(resumed.model.image.weight, whole.model.image.weight)


def test_what_was_chosen_is_logged_beside_the_loss(tmp_path):
    run = trainer(tmp_path, num_train_epochs=1, save_strategy="no")
    run.train()
    logged = [line for line in run.state.log_history if "loss" in line]
    assert len(logged) == 4
    assert all(line["jest/score"] > line["jest/uniform_score"] for line in logged)


def test_the_evaluation_is_whole(tmp_path):
    run = trainer(tmp_path, num_train_epochs=1, save_strategy="no")
    run.eval_dataset = pairs(20)
    assert run.evaluate()["eval_samples_per_second"] > 0
    assert len(run.get_eval_dataloader().dataset) == 20


def test_a_checkpoint_without_a_datasets_state_is_refused(tmp_path):
    trainer(tmp_path, max_steps=2).train()
    (tmp_path / "checkpoint-2" / "jest_dataset.pt").unlink()
    with pytest.raises(
        ValueError, match=r"must hold a jest_dataset.pt to go on from, but has none"
    ):
        trainer(tmp_path).train(resume_from_checkpoint=True)


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must be the dataset's sub_batch_size, got 16 and 8"):
        trainer(tmp_path, per_device_train_batch_size=16)
    with pytest.raises(ValueError, match="jest must return a JestDataset, got list"):
        trainer(tmp_path, lambda model: [])
    with pytest.raises(ValueError, match="must not be evaluated on"):
        Keeps(
            Learner(1),
            TrainingArguments(str(tmp_path), per_device_train_batch_size=8, report_to=[]),
            jest=dataset,
            eval_dataset=dataset(Learner(1)),
        )

    def plain(model):
        return dataset(model, DataLoader(pairs(), batch_size=8))

    with pytest.raises(ValueError, match="of a DataLoader can be neither saved nor restored"):
        trainer(tmp_path, plain).train()
    trainer(tmp_path, plain, save_strategy="no").train()


RANKS = """
import json, sys
from pathlib import Path
import torch
from torch.utils.data.distributed import DistributedSampler
from torchdata.stateful_dataloader import StatefulDataLoader
from tests.frameworks.test_transformers import Learner, trainer
from tests.frameworks.toy import dataset, pairs

def make(model):
    rows = pairs()
    return dataset(model, StatefulDataLoader(rows, 4, sampler=DistributedSampler(rows)), size=4)

folder = Path(sys.argv[1])

def train(name, checkpoint=None):
    run = trainer(folder / name, make, per_device_train_batch_size=4, num_train_epochs=2)
    # Without an index: transformers 4.57 cannot load an optimizer to cpu:0 with torch 2.14.
    run.args.__dict__["_setup_devices"] = torch.device("cpu")
    run.train(resume_from_checkpoint=checkpoint)
    return run.args.process_index, [run.seen, run.model.image.weight.sum().item()]

rank, whole = train("whole")
_, resumed = train("resumed", str(folder / "whole/checkpoint-4"))
(folder / f"rank{rank}.json").write_text(json.dumps([whole, resumed]))
"""


@pytest.mark.slow
def test_two_ranks_share_no_row_and_go_on_exactly(tmp_path):
    ((first, weight), resumed), ((second, other), also) = run_ranks(RANKS, tmp_path)
    assert weight == other
    assert len(first) == len(second) == 8
    assert_no_row_is_shared(first, second)
    assert [resumed, also] == [[first[4:], weight], [second[4:], weight]]
