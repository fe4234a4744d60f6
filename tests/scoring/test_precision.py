"""In which precision a model scores, and what happens where that does not go."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.functional import normalize
from torchvision import tv_tensors

from jest_loader import (
    Embeddings,
    FrozenReference,
    HardLearner,
    JestDataset,
    Learnability,
    LiveLearner,
    OnlineProxy,
    Options,
    PerExample,
)
from jest_loader.reference_cache import build
from jest_loader.scoring.precision import autocast_dtype
from jest_loader.scoring.wrappers import weight_dtypes

FP16, BF16, FP32, FP64 = torch.float16, torch.bfloat16, torch.float32, torch.float64


class Tower(nn.Module):
    """One tower for both sides, which records the dtypes of its products, its copies' too."""

    seen: list[torch.dtype]

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 6)
        Tower.seen = []

    def forward(self, rows):
        rows = self.layer(rows)
        self.seen.append(rows.dtype)
        return rows

    def embed(self, batch):
        rows = normalize(self(batch["x"]).float(), dim=1)
        return Embeddings(rows, rows, 10.0, -5.0)


def batch_of(size: int = 20, scale: float = 1.0):
    x = scale * torch.randn(size, 8, generator=torch.Generator().manual_seed(0))
    return {"x": x, "sample_id": torch.arange(size)}


def losses(model, batch):
    return model(batch["x"]).square().mean(dim=1)


@pytest.mark.parametrize(
    ("precision", "device", "weights", "expected"),
    [
        ("auto", "cuda", {FP32}, FP16),
        ("auto", "cpu", {FP32}, None),
        ("auto", "mps", {FP32}, None),
        ("auto", "cuda", {BF16}, BF16),
        ("auto", "cpu", {BF16}, BF16),
        ("auto", "cuda", {FP16, FP32}, FP16),
        ("auto", "cuda", {BF16, FP32}, BF16),
        ("auto", "cuda", {FP64}, None),
        ("auto", "cuda", {FP64, FP32}, None),
        ("auto", "cuda", set(), None),
        ("fp32", "cuda", {FP32}, None),
        ("fp16", "cpu", {FP32}, FP16),
        ("bf16", "cuda", {FP32}, BF16),
        ("bf16", "cuda", {FP16}, BF16),
    ],
)
def test_the_dtype_follows_from_the_device_and_the_weights(precision, device, weights, expected):
    assert autocast_dtype(precision, device, weights) == expected


@pytest.mark.parametrize(
    ("precision", "weights", "named"),
    [("fp32", {BF16}, "bfloat16"), ("fp16", {FP64}, "float64"), ("fp32", {FP64}, "float64")],
)
def test_weights_that_autocast_does_not_change_are_refused(precision, weights, named):
    with pytest.raises(ValueError, match=rf"'auto' for .* weights are torch\.{named}, .* leave it"):
        autocast_dtype(precision, "cuda", weights)


def test_another_word_is_refused():
    with pytest.raises(ValueError, match="'fp32', 'fp16' or 'bf16', got 'half'"):
        LiveLearner(Tower(), precision="half")


def reference_of(model, **options):
    return FrozenReference(model, **options).embed(batch_of()).image


def learner_of(model, **options):
    return LiveLearner(model, **options).embed(batch_of()).image


def copied(model, **options):
    return LiveLearner(model, **options).snapshot().embed(batch_of()).image


def values_of(model, **options):
    return PerExample(model, losses, **options).values(batch_of())


def proxy_of(model, **options):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return OnlineProxy(model, optimizer, **options).embed(batch_of()).image


@pytest.mark.parametrize("make", [learner_of, reference_of, copied, values_of, proxy_of])
def test_all_score_in_the_precision_and_give_fp32(make):
    model = Tower()
    exact = make(model)
    for precision, dtype, error in (("fp32", FP32, 0), ("fp16", FP16, 0.003), ("bf16", BF16, 0.03)):
        found = make(model, precision=precision)
        assert model.seen[-1] == dtype
        assert found.dtype == FP32
        torch.testing.assert_close(found, exact, atol=error, rtol=error)
        assert torch.equal(found, exact) == (dtype == FP32)


def test_a_proxy_trains_as_it_did_whatever_it_scores_in():
    model = Tower()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    proxy = OnlineProxy(model, optimizer, precision="bf16")
    proxy.embed(batch_of())
    proxy.update(batch_of())
    assert model.seen == [BF16, FP32]


def test_autocast_around_the_training_loop_is_left_as_it_was():
    """Weights that were cast to score have no gradient, and must not be found by the next step."""
    model, alone = Tower(), Tower()
    alone.load_state_dict(model.state_dict())
    learner = LiveLearner(model, precision="fp16")
    with torch.autocast("cpu", BF16):
        learner.embed(batch_of())
        for each in (model, alone):
            each.embed(batch_of(4)).image[:, 0].sum().backward()
    assert Tower.seen == [FP16, BF16, BF16]
    assert torch.equal(model.layer.weight.grad, alone.layer.weight.grad)


def test_autocast_that_the_function_enters_itself_wins():
    def embed(model, batch):
        with torch.autocast("cpu", BF16):
            return model.embed(batch)

    model = Tower()
    LiveLearner(model, embed, precision="fp16").embed(batch_of())
    assert model.seen == [BF16]


def test_a_model_in_half_precision_takes_candidates_in_fp32():
    """As under Lightning's bf16-true, which casts what is trained on and not the candidates."""
    model = Tower()
    exact = LiveLearner(model).embed(batch_of()).image
    for dtype in (BF16, FP16):
        half = copy.deepcopy(model).to(dtype)
        found = LiveLearner(half).embed(batch_of()).image
        assert half.seen[-1] == dtype
        torch.testing.assert_close(found, exact, atol=0.03, rtol=0)


def test_what_cannot_be_cast_says_what_to_do():
    normed = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 6)).bfloat16()
    message = r"model's is torch.bfloat16 and column \['x'\] is torch.float32 .*; cast it where"
    image = tv_tensors.Image(batch_of()["x"].view(20, 1, 1, 8))  # A subclass is a tensor too.
    for x in (batch_of()["x"], image):
        with pytest.raises(ValueError, match=message):
            PerExample(normed, losses).values({"x": x})
    proxy = OnlineProxy(model := Tower().bfloat16(), torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(ValueError, match=message):
        proxy.update(batch_of())

    def filled(model, batch):
        rows = torch.zeros(len(batch["x"]), 6)
        rows[:3] = model(batch["x"])[:3].exp()
        rows[torch.arange(3)] = model(batch["x"])[:3]
        return rows.mean(dim=1)

    PerExample(Tower(), filled).values(batch_of())
    with pytest.raises(ValueError, match=r"fails in torch.float16 \(.*; pass precision='fp32'"):
        PerExample(Tower(), filled, precision="fp16").values(batch_of())
    with pytest.raises(RuntimeError, match="mat1 and mat2"):  # Another fault stays what it is.
        PerExample(Tower(), losses, precision="fp16").values({"x": torch.randn(3, 5)})


def overflowing(num_rows: int):
    """A batch of 200 in which some rows are beyond fp16, and a model that keeps their size."""
    model = Tower()
    nn.init.eye_(model.layer.weight)
    batch = batch_of(200)
    batch["x"][:num_rows] *= 1e6
    return model, batch


def scorers(model, precision):
    learner = LiveLearner(model, precision=precision)
    reference = FrozenReference(copy.deepcopy(model), precision="fp32")
    return [
        HardLearner(learner),
        Learnability(reference, learner),
        PerExample(model, losses, precision=precision),
        PerExample(model, losses, PerExample(model, losses, precision=precision)),
    ]


@pytest.mark.parametrize("kind", range(4), ids=["hard", "learnability", "loss", "reference loss"])
def test_what_overflows_in_fp16_is_skipped_and_the_remedy_named(kind, caplog):
    def choose(num_rows, precision):
        model, batch = overflowing(num_rows)
        scorer = scorers(model, precision)[kind]
        dataset = JestDataset([batch], scorer, super_batch_size=200, sub_batch_size=10)
        assert len(next(iter(dataset))["x"]) == 10
        return dataset

    assert choose(2, "fp16").counts.skipped == 2
    assert " (a model scored in fp16, which ends at 65504: set its precision to bf16" in caplog.text
    with pytest.raises(ValueError, match=r"200 must be: .*: set its precision to bf16 or fp32"):
        choose(200, "fp16")
    assert choose(200, "bf16").counts.skipped == 0


def test_a_cache_names_the_remedy_for_what_overflows(tmp_path, caplog):
    model, batch = overflowing(2)
    build(tmp_path / "some", [batch], FrozenReference(model, precision="fp16"))
    assert "sample 0: it is NaN (a model scored in fp16" in caplog.text
    model, batch = overflowing(200)
    with pytest.raises(
        ValueError, match=r"it could use none; .*: set its precision to bf16 or fp32"
    ):
        build(tmp_path / "none", [batch], FrozenReference(model, precision="fp16"))


def test_a_cache_of_another_precision_is_another_cache(tmp_path):
    def manifest(name, precision):
        reference = FrozenReference(model, precision=precision)
        return build(tmp_path / name, [batch_of()], reference)

    model = Tower()
    assert "precision" not in manifest("auto", "auto").identity
    assert manifest("auto", "fp32").identity == manifest("auto", "auto").identity
    assert manifest("half", "fp16").identity["precision"] == "float16"
    with pytest.raises(ValueError, match=r"precision 'float16', .* go on with None"):
        build(tmp_path / "half", [batch_of()], FrozenReference(model))


def test_a_state_goes_on_in_another_precision():
    """It is the remedy for fp16's overflow, and rounds as another device does."""

    def make(precision):
        scorer = HardLearner(LiveLearner(Tower(), precision=precision))
        return JestDataset(
            [batch_of(8)] * 6, scorer, super_batch_size=24, sub_batch_size=4, options=Options()
        )

    dataset = make("fp16")
    assert dataset._arguments.configuration(1) == make("bf16")._arguments.configuration(1)


@pytest.fixture
def one_rank():
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_fsdp_scores_in_the_precision_of_its_policy(one_rank):
    model = Tower()
    mesh, policy = init_device_mesh("cpu", (1,)), MixedPrecisionPolicy(param_dtype=BF16)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    assert weight_dtypes(model) == {BF16}
    LiveLearner(model).embed(batch_of())
    assert model.seen == [BF16]
    plain = fully_shard(Tower(), mesh=mesh)
    assert weight_dtypes(plain) == {FP32}
