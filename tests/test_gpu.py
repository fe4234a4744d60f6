"""What must be the same on a GPU: the noise, and with it the candidates that are drawn."""

import copy

import pytest
import torch
from torch.utils.data import DataLoader

from jest_loader import (
    Embeddings,
    FactoredScores,
    HardLearner,
    JestDataset,
    JointSelector,
    LiveLearner,
    Options,
    PerExample,
    Shrink,
    UniformSelector,
)
from jest_loader.clip.step.finite_check import FiniteCheck, StepValues
from jest_loader.ops.noise import fold, gumbel
from tests.helpers import random_embeddings

pytestmark = pytest.mark.gpu


def on_gpu(side: Embeddings) -> Embeddings:
    return Embeddings(side.image.cuda(), side.text.cuda(), side.logit_scale, side.logit_bias)


def test_noise_is_that_of_the_cpu():
    found, expected = (
        gumbel(fold(1, 2), 10_000, dtype=torch.float64, device=torch.device(device))
        for device in ("cuda", "cpu")
    )
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_the_same_candidates_are_drawn(loss):
    host = random_embeddings(500, 32, seed=0, logit_bias=-5.0)
    drawn = [
        JointSelector(4).select(FactoredScores(side, loss=loss), 100, key=0).cpu()
        for side in (host, on_gpu(host))
    ]
    assert torch.equal(*drawn)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_a_selection_never_waits_for_the_device(loss, fused):
    side = random_embeddings(500, 32, seed=0, dtype=torch.float16)
    scores = FactoredScores(on_gpu(side), loss=loss, fused=fused)
    JointSelector(4).select(scores, 100, key=0)  # Compiles.
    torch.cuda.set_sync_debug_mode("error")
    try:
        JointSelector(4).select(scores, 100, key=1)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_what_is_not_finite_is_marked_and_then_refused_by_the_dataset():
    side = on_gpu(random_embeddings(500, 32, seed=0, dtype=torch.float16))
    side.image[7] = torch.nan
    index = JointSelector(4).select(FactoredScores(side), 500, key=0)
    assert index.max() >= 2**62, "one of 500 has no score, and all are to be drawn"

    class Scorer:
        def score(self, super_batch):
            return FactoredScores(side)

    dataset = JestDataset([torch.arange(500)], Scorer(), super_batch_size=500, sub_batch_size=500)
    with pytest.raises(ValueError, match="as many candidates with finite scores, but 1 had none"):
        next(iter(dataset))


def test_a_memory_budget_bounds_what_scoring_takes_and_is_measured_once():
    """Each row takes 8 MiB of activations beside its own 4 KiB."""
    model = torch.nn.Linear(1024, 8).cuda()
    seen = []

    def loss(model, batch):
        seen.append(len(batch["x"]))
        wide = batch["x"].repeat(1, 2048)
        return model(wide.view(len(batch["x"]), 2048, 1024)).mean(dim=(1, 2))

    scorer = PerExample(model, loss, max_memory_bytes=200 * 2**20, precision="fp32")
    batch = {"x": torch.randn(100, 1024)}
    expected = PerExample(model, loss, micro_batch_size=1, precision="fp32").values(batch)
    seen.clear()
    torch.testing.assert_close(scorer.values(batch), expected)
    assert seen[-7:] == [16] * 6 + [4], "32 rows would take 258 MiB"
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    seen.clear()
    on_device = {"x": batch["x"].cuda()}
    torch.cuda.set_sync_debug_mode("error")
    try:
        scorer.values(on_device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert seen == [16] * 6 + [4], "nothing is measured again"
    assert torch.cuda.max_memory_allocated() - before <= 201 * 2**20


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16])
def test_images_shrink_as_on_the_cpu(dtype):
    image = torch.randint(256, (4, 3, 64, 48)).to(dtype)
    host, device = (Shrink("image", 16)({"image": i})["image"] for i in (image, image.cuda()))
    torch.testing.assert_close(device.cpu().float(), host.float(), atol=1.0, rtol=0)


def test_a_live_learner_follows_its_model_to_the_gpu():
    model = torch.nn.Linear(4, 6)

    def embed(model, batch):
        rows = torch.nn.functional.normalize(model(batch["x"]), dim=1)
        return Embeddings(rows, rows, 10.0, -5.0)

    learner = LiveLearner(model, embed, micro_batch_size=3, precision="fp32")
    expected = learner.embed({"x": torch.ones(7, 4)})
    model.cuda()
    found = learner.embed({"x": torch.ones(7, 4)})
    assert found.image.is_cuda
    torch.testing.assert_close(found.image.cpu(), expected.image)


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("auto", torch.float16), ("bf16", torch.bfloat16), ("fp32", torch.float32)],
)
def test_a_model_in_fp32_scores_in_fp16_unless_it_is_told(precision, dtype):
    model, seen = torch.nn.Linear(64, 64).cuda(), []

    def embed(model, batch):
        rows = model(batch["x"])
        seen.append(rows.dtype)
        rows = torch.nn.functional.normalize(rows, dim=1)
        return Embeddings(rows, rows, 10.0, -5.0)

    batch = {"x": torch.randn(100, 64)}
    found = LiveLearner(model, embed, precision=precision).embed(batch).image
    assert seen == [dtype]
    assert found.dtype == torch.float32
    norms = found.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))  # The norm is taken in fp32.
    exact = LiveLearner(copy.deepcopy(model).cpu().double(), embed).embed(
        {"x": batch["x"].double()}
    )
    error = {torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.float32: 1e-5}[dtype]
    torch.testing.assert_close(found.cpu().double(), exact.image, atol=error, rtol=0)


def test_a_choice_made_during_training_is_by_weights_one_step_old():
    def run(overlap):
        torch.manual_seed(0)
        model = torch.nn.Linear(16, 16).cuda()
        optimizer = torch.optim.SGD(model.parameters(), lr=10.0)
        rows = torch.nn.functional.normalize(torch.randn(2048, 16), dim=1)
        source = [{"x": part, "row": torch.arange(256)} for part in rows.split(256)]

        def embed(model, batch):
            image = torch.nn.functional.normalize(model(batch["x"]), dim=1)
            return Embeddings(image, batch["x"], 15.0, -3.0)

        learner = LiveLearner(model, embed) if overlap else Stale(model, embed)
        dataset = JestDataset(
            source,
            HardLearner(learner),
            super_batch_size=256,
            sub_batch_size=32,
            options=Options(overlap=overlap),
            materialize=lambda batch: {name: rows.cuda() for name, rows in batch.items()},
        )
        found = []
        for batch in dataset:
            found.append(batch["row"].tolist())
            for _ in range(50):  # Long enough that the next choice is made meanwhile.
                loss = (embed(model, batch).image * batch["x"]).sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return found

    class Stale:
        def __init__(self, model, embed):
            self.model, self.function, self.next_model = model, embed, copy.deepcopy(model)

        def embed(self, batch):
            model, self.next_model = self.next_model, copy.deepcopy(self.model)
            return LiveLearner(model, self.function).embed(batch)

    assert run(overlap=True) == run(overlap=False)


def test_a_dataloader_pins_sub_batches_that_are_not_on_the_gpu():
    def loader(device):
        source = [{"image": torch.zeros(8, 3, device=device), "caption": ["a"] * 8}]
        data = JestDataset(source, None, UniformSelector(), super_batch_size=8, sub_batch_size=4)
        return DataLoader(data, batch_size=None, pin_memory=True)

    batch = next(iter(loader("cpu")))
    assert batch["image"].is_pinned()
    assert batch["caption"] == ["a"] * 4
    with pytest.raises(RuntimeError, match="only dense CPU tensors can be pinned"):
        next(iter(loader("cuda")))


def test_no_training_step_waits_for_its_loss(tmp_path):
    check = FiniteCheck(tmp_path)
    loss = torch.ones((), device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in (1, 2, 3):
            check.add(step, loss, loss, [step])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert check.settle() == StepValues(3, 1.0, 1.0)
    check.add(4, loss * torch.nan, loss, [7, 8])
    with pytest.raises(FloatingPointError, match="got nan at step 4 on samples 7, 8 "):
        check.add(5, loss, loss, [9])
