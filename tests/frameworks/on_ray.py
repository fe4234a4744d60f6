"""What Ray's workers run, in a module that they can import."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import ray.train
import torch
from ray.train import Checkpoint
from ray.train.torch import prepare_data_loader, prepare_model
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler
from torchdata.stateful_dataloader import StatefulDataLoader

from jest_loader import FrozenReference, SkipRowsError
from jest_loader.reference_cache import build_part
from tests.frameworks.toy import TwoTower, dataset, pairs

NUM_EPOCHS, STEPS = 3, 4
MADE_FROM = {"tokenizer": "none"}
NUM_PARTS = 6


def write(config, *values):
    file = Path(config["folder"]) / f"rank{ray.train.get_context().get_world_rank()}.jsonl"
    with file.open("a") as log:
        log.write(json.dumps(values) + "\n")


def save(config, step, data, model, optimizer):
    """Report a checkpoint with the first worker's states, and wait until Ray keeps it."""
    checkpoint = None
    if ray.train.get_context().get_world_rank() == 0:
        folder = Path(config["folder"], f"save{step}")
        folder.mkdir(exist_ok=True)
        states = [data.state_dict(), model.module.state_dict(), optimizer.state_dict()]
        torch.save(states, folder / "states.pt")
        checkpoint = Checkpoint.from_directory(folder)
    ray.train.report({"step": step}, checkpoint=checkpoint)
    ray.train.get_all_reported_checkpoints()


def restore(data, model, optimizer):
    """Go on from the newest checkpoint, if there is one."""
    if (checkpoint := ray.train.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder:
            states = torch.load(Path(folder, "states.pt"), weights_only=True)
        for part, state in zip((data, model.module, optimizer), states, strict=True):
            part.load_state_dict(state)


def train(config):
    """Saves at some steps; the second worker is killed once before each of some steps."""
    rows, model = pairs(), prepare_model(TwoTower(1))
    loader = StatefulDataLoader(rows, batch_size=4, sampler=DistributedSampler(rows, seed=3))
    data = dataset(model, loader, size=4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    restore(data, model, optimizer)
    for epoch in range(data.epoch, NUM_EPOCHS):
        data.set_epoch(epoch)
        for batch in data:
            step = data.counts.trained // 8
            killed = Path(config["folder"], f"killed{step}")
            is_second = ray.train.get_context().get_world_rank() == 1
            if step in config["killed"] and is_second and not killed.exists():
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            optimizer.zero_grad()
            model(batch).backward()
            optimizer.step()
            write(config, step, batch["id"].tolist(), model.module.image.weight.sum().item())
            if step in config["saved"]:
                save(config, step, data, model, optimizer)


def read_what_ray_deals(config):
    """The numbers of two epochs of a prepared loader and of a shard, and what their state says."""
    loader = StatefulDataLoader(pairs(), batch_size=4, shuffle=True)
    shard = ray.train.get_dataset_shard("train").iter_torch_batches(batch_size=4)
    for source in (prepare_data_loader(loader), shard):
        data = dataset(TwoTower(1), source, size=4)
        epochs = [[batch["id"].tolist() for batch in data] for _ in range(2)]
        try:
            data.state_dict()
        except ValueError as error:
            write(config, epochs, str(error))


class Reference(TwoTower):
    """Cannot use two rows; kills its process once, where the folder of a mark is given."""

    def __init__(self, mark=None) -> None:
        super().__init__(7)
        self.mark = mark

    def embed(self, batch):
        ids = [int(one) for one in batch["sample_id"]]
        if self.mark is not None and max(ids) > 100 and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if bad := {row: "it is bad" for row, one in enumerate(ids) if one in (5, 130)}:
            raise SkipRowsError(bad)
        return super().embed(batch)


class Rows:
    """The pairs with their numbers, from any batch on."""

    batch_size, num_examples = 8, 176

    def __init__(self) -> None:
        self.first = 0

    def __len__(self):
        return 22

    def seek(self, batch):
        self.first = batch

    def __iter__(self):
        for batch in DataLoader(pairs()[8 * self.first :], batch_size=8):
            yield {**batch, "sample_id": batch["id"].numpy()}

    def fingerprint(self):
        return "pairs"


class BuildsParts:
    def __init__(self, cache, mark) -> None:
        self.cache, self.reference = cache, FrozenReference(Reference(mark))

    def __call__(self, batch):
        for part in batch["id"].tolist():
            build_part(
                self.cache, Rows(), self.reference, part, NUM_PARTS,
                identity=MADE_FROM, chunk_rows=16,
            )  # fmt: skip
        return batch


def tensors(batch):
    return {name: torch.as_tensor(np.array(column)) for name, column in batch.items()}


class Embeds:
    def __init__(self, mark) -> None:
        self.reference = FrozenReference(Reference(mark))

    def __call__(self, batch):
        found = self.reference.embed(tensors(batch))
        image, text = found.image.numpy(), found.text.numpy()
        return {"sample_id": batch["sample_id"], "reference_image": image, "reference_text": text}
