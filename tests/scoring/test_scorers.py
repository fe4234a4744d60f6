"""Scorers and embedders: the right losses, the right mode, and what they refuse."""

import io
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import normalize
from torch.optim.lr_scheduler import StepLR

from jest_loader import (
    CachedReference,
    EasyReference,
    Embeddings,
    FactoredScores,
    FrozenReference,
    HardLearner,
    JestDataset,
    Learnability,
    LiveLearner,
    OnlineProxy,
    SkipRowsError,
)
from jest_loader.batch import take
from tests.helpers import random_embeddings


class Fixed:
    """An embedder that returns what it was given."""

    def __init__(self, embeddings: Embeddings) -> None:
        self.embeddings = embeddings

    def embed(self, batch):
        return self.embeddings


class Towers(nn.Module):
    """Two linear towers with dropout, which scoring must not apply."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.image = nn.Linear(4, width)
        self.text = nn.Linear(4, width)
        self.dropout = nn.Dropout(0.5)
        self.frozen_norm = nn.BatchNorm1d(width).eval()
        self.log_scale = nn.Parameter(torch.tensor([2.5]))
        self.logit_bias = nn.Parameter(torch.tensor([-3.0]))

    def embed(self, batch):
        def tower(layer, column):
            return normalize(self.dropout(layer(column)), dim=1)

        return Embeddings(
            tower(self.image, batch["image"]),
            tower(self.text, batch["text"]),
            self.log_scale.exp(),
            self.logit_bias,
        )


def batch_of(size: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(size, 4, generator=generator)
    return {"image": image, "text": image.flip(1), "sample_id": np.arange(size)}


def score(learner: Embeddings) -> None:
    Learnability(Fixed(learner), Fixed(REFERENCE)).score({})


def on_meta(side: Embeddings):
    """Columns on another device than the reference's, on any machine."""
    return {"image": side.image.to("meta"), "text": side.text.to("meta")}


LEARNER, REFERENCE = random_embeddings(9, 4, seed=0), random_embeddings(9, 6, seed=1)


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_scores_are_those_of_the_sides_named(loss):
    learner, reference = Fixed(LEARNER), Fixed(REFERENCE)
    expected = {
        Learnability(learner, reference, loss): FactoredScores(LEARNER, REFERENCE, loss),
        EasyReference(reference, loss): FactoredScores(reference=REFERENCE, loss=loss),
        HardLearner(learner, loss): FactoredScores(LEARNER, loss=loss),
    }
    chosen = torch.tensor([2, 5])
    for scorer, scores in expected.items():
        found = scorer.score({}).given(chosen).logits
        assert torch.equal(found, scores.given(chosen).logits)


def test_learnability_falls_when_the_reference_finds_an_example_hard():
    """The reference's loss enters with a minus sign: noise that nobody can learn scores low."""
    shuffled = Embeddings(REFERENCE.image, REFERENCE.text.roll(1, 0), 10.0, -5.0)
    good = Learnability(Fixed(LEARNER), Fixed(REFERENCE)).score({}).logits
    bad = Learnability(Fixed(LEARNER), Fixed(shuffled)).score({}).logits
    assert good.mean() > bad.mean() + 1


def test_a_live_learner_scores_in_eval_mode_and_puts_the_modes_back():
    model = Towers().train()
    model.frozen_norm.eval()
    learner = LiveLearner(model)
    first, second = learner.embed(batch_of(5)), learner.embed(batch_of(5))
    assert torch.equal(first.image, second.image), "dropout must be off"
    assert not first.image.requires_grad
    assert model.training
    assert model.dropout.training
    assert not model.frozen_norm.training


def test_the_modes_are_put_back_after_an_error():
    model = Towers().train()
    with pytest.raises(ValueError, match="lacks 'text'; it has 'image', 'label'; add the column"):
        LiveLearner(model).embed({"image": torch.zeros(2, 4), "label": [0, 1]})
    assert model.dropout.training


def test_scoring_is_outside_autocast():
    model = Towers()
    exact = LiveLearner(model).embed(batch_of(5))
    with torch.autocast("cpu", torch.bfloat16):
        inside = LiveLearner(model).embed(batch_of(5))
    assert inside.image.dtype == torch.float32
    assert torch.equal(inside.image, exact.image)


def test_a_live_learner_sees_the_weights_as_they_are_now():
    model = Towers()
    learner = LiveLearner(model)
    before = learner.embed(batch_of(5)).image
    with torch.no_grad():
        model.image.weight.mul_(-1)
    assert not torch.equal(before, learner.embed(batch_of(5)).image)


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_micro_batches_change_nothing(size):
    model = Towers()
    whole = LiveLearner(model).embed(batch_of(7))
    parts = LiveLearner(model, micro_batch_size=size).embed(batch_of(7))
    torch.testing.assert_close(parts.image, whole.image)
    torch.testing.assert_close(parts.text, whole.text)
    assert parts.logit_scale == whole.logit_scale


def test_any_model_goes_with_a_function():
    class Bare(nn.Module):
        def forward(self, x):
            return x

    def embed(model, batch):
        return Embeddings(model(batch["image"]), batch["text"], 1.0, 0.0)

    assert LiveLearner(Bare(), embed).embed(batch_of(3)).image.shape == (3, 4)
    with pytest.raises(ValueError, match=r"Bare has no embed\(batch\) method; pass embed="):
        LiveLearner(Bare())


def test_a_frozen_reference_is_frozen():
    model = Towers().train()
    FrozenReference(model)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def proxy_with(**options):
    model = Towers()
    return OnlineProxy(model, torch.optim.SGD(model.parameters(), lr=1.0), **options)


def test_an_online_proxy_learns_from_what_is_emitted():
    torch.manual_seed(0)
    proxy_model = Towers()
    proxy_model.dropout.p = 0.0
    proxy = OnlineProxy(proxy_model, torch.optim.Adam(proxy_model.parameters(), lr=3e-2))
    scorer = Learnability(proxy, Fixed(random_embeddings(32, 4, seed=3)))
    source = [batch_of(16, seed) for seed in range(100)]
    held_out = batch_of(64, seed=1000)

    def accuracy():
        found = LiveLearner(proxy_model).embed(held_out)
        return ((found.image @ found.text.T).argmax(1) == torch.arange(64)).float().mean()

    before = accuracy()
    for sub_batch in JestDataset(source, scorer, super_batch_size=32, sub_batch_size=8):
        assert len(sub_batch["image"]) == 8
    assert accuracy() > before + 0.3


def test_an_online_proxy_stops_on_a_loss_that_is_not_finite():
    model = Towers()
    proxy = OnlineProxy(model, torch.optim.SGD(model.parameters(), lr=1.0))
    weights = model.image.weight.clone()
    with pytest.raises(ValueError, match=r"proxy's loss must be finite, got nan; lower its"):
        proxy.update({**batch_of(4), "image": torch.full((4, 4), torch.nan)})
    assert torch.equal(model.image.weight, weights)


@pytest.mark.parametrize("scheduled", [False, True])
def test_a_proxy_goes_on_from_its_state(scheduled):
    def new():
        torch.manual_seed(0)
        model = Towers().eval()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        scheduler = StepLR(optimizer, step_size=2, gamma=0.5) if scheduled else None
        return OnlineProxy(model, optimizer, scheduler=scheduler)

    def train(proxy, seeds):
        for seed in seeds:
            proxy.update(batch_of(8, seed))

    whole = new()
    train(whole, range(6))
    stopped = new()
    train(stopped, range(3))
    buffer = io.BytesIO()
    torch.save(stopped.state_dict(), buffer)
    resumed = new()
    buffer.seek(0)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    train(resumed, range(3, 6))
    assert torch.equal(resumed.embed(batch_of(5)).image, whole.embed(batch_of(5)).image)
    rates = [group["lr"] for group in resumed.optimizer.param_groups]
    assert rates == [1e-2 / 8 if scheduled else 1e-2]


def test_a_proxy_without_a_scheduler_does_not_take_one_from_a_state():
    model = Towers().eval()
    proxy = OnlineProxy(model, torch.optim.SGD(model.parameters(), lr=1.0))
    for state in ({**proxy.state_dict(), "scheduler": {}}, {}, None):
        with pytest.raises(ValueError, match="must have model, optimizer, got"):
            proxy.load_state_dict(state)


def test_a_proxys_gradients_are_clipped():
    model = Towers().eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    OnlineProxy(model, optimizer, clip_norm=1e-3).update(batch_of(8))
    moved = torch.nn.utils.parameters_to_vector(model.parameters()).detach() - before
    assert 0.9e-3 < moved.norm() < 1.1e-3


def test_a_proxy_learns_from_the_rows_that_can_be_used():
    def prepare(batch):
        bad = {row: "broken" for row, image in enumerate(batch["image"]) if image.isnan().any()}
        if bad:
            raise SkipRowsError(bad)
        return batch

    def trained_on(batch):
        torch.manual_seed(0)
        model = Towers().eval()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        OnlineProxy(model, optimizer, equal_by="caption", prepare=prepare).update(batch)
        return torch.nn.utils.parameters_to_vector(model.parameters())

    batch = {**batch_of(6), "caption": ["a", "b", "a", "c", "d", "d"]}
    broken = {**batch, "image": batch["image"].clone()}
    broken["image"][[1, 4]] = torch.nan
    rows = torch.tensor([0, 2, 3, 5])
    assert torch.equal(trained_on(broken), trained_on(take(batch, rows)))
    with pytest.raises(ValueError, match=r"all of the sub-batch are skipped: sample 0: broken; "):
        trained_on({**batch, "image": torch.full_like(batch["image"], torch.nan)})


@pytest.mark.parametrize("raises", [False, True])
def test_scoring_leaves_no_trace(raises):
    """Modes, statistics of norms, gradients and the random state are as they were."""
    model = Towers().train()
    model.frozen_norm.eval()
    model.text = nn.Sequential(model.text, nn.BatchNorm1d(6))
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()

    def embed(model, batch):
        found = model.embed(batch)
        if raises:
            raise RuntimeError("torn")
        return found

    expected = pytest.raises(RuntimeError, match="torn") if raises else nullcontext()
    with expected:
        LiveLearner(model, embed, micro_batch_size=3).embed(batch_of(7))
    assert [module.training for module in model.modules()] == modes
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_embeddings_come_out_in_fp32_at_least(dtype, expected):
    model = Towers().to(dtype)
    columns = batch_of(5)
    batch = {**columns, **{name: columns[name].to(dtype) for name in ("image", "text")}}
    found = LiveLearner(model).embed(batch)
    assert found.image.dtype == found.text.dtype == expected
    assert torch.equal(found.image, model.eval().embed(batch).image.to(expected))
    FactoredScores(found)  # Of unit norm still.


def test_embeddings_that_are_too_coarse_are_warned_of_also_in_fp32():
    model = Towers().to(torch.bfloat16)
    batch = {name: batch_of(5)[name].bfloat16() for name in ("image", "text")}
    model.log_scale.data.fill_(5.0)
    with pytest.warns(UserWarning, match="model's embeddings are torch.bfloat16, which is too"):
        LiveLearner(model).embed(batch)


def test_a_cached_reference_finds_rows_by_sample_id():
    image, text = np.random.default_rng(0).normal(size=(2, 20, 3)).astype(np.float16)
    cached = CachedReference(image, text, 5.0, -1.0)
    found = cached.embed({"sample_id": np.array([19, 0, 7])})
    assert torch.equal(found.image, torch.from_numpy(image[[19, 0, 7]]))
    assert torch.equal(found.text, torch.from_numpy(text[[19, 0, 7]]))
    assert (found.logit_scale, found.logit_bias) == (5.0, -1.0)
    other = CachedReference(torch.from_numpy(image), torch.from_numpy(text), 5.0, id_column="row")
    assert torch.equal(other.embed({"row": torch.tensor([3])}).image, torch.from_numpy(image[[3]]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: CachedReference(np.zeros((3, 2)), np.zeros((4, 2)), 1.0),
            r"must both have shape \[examples, width\], got \(3, 2\) and \(4, 2\)",
        ),
        (
            lambda: CachedReference(np.zeros((3, 2)), np.zeros((3, 2)), 1.0).embed({"image": []}),
            "the batch has no column 'sample_id'; add",
        ),
        (
            lambda: CachedReference(np.zeros((3, 2)), np.zeros((3, 2)), 1.0).embed(
                {"sample_id": [0, 3]}
            ),
            r"but 1 of this batch have none \(sample 3: it is not in the reference cache\); build ",
        ),
        (lambda: CachedReference.open("nowhere"), "no reference cache at nowhere"),
        (lambda: Learnability(Towers(), Fixed(REFERENCE)), "learner must be an embedder, got Tow"),
        (lambda: EasyReference("cache"), "reference must be an embedder, got str; wrap a model in"),
        (
            lambda: HardLearner(
                OnlineProxy(model := Towers(), torch.optim.SGD(model.parameters()), loss="softmax")
            ),
            "its loss is 'softmax' and the scorer's 'sigmoid'; pass loss='sigmoid' to OnlineProxy",
        ),
        (lambda: HardLearner(Fixed(LEARNER), "clip"), "'sigmoid' or 'softmax', got 'clip'"),
        (
            lambda: LiveLearner(Towers(), lambda model, batch: (1, 2)).embed(batch_of(2)),
            "embed must return Embeddings.*, got tuple",
        ),
        (
            lambda: LiveLearner(Towers(), micro_batch_size=0),
            "micro_batch_size must be a whole number of at least 1, got 0",
        ),
    ],
)
def test_bad_input_is_refused_in_a_sentence(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LiveLearner(None), "model must be a torch.nn.Module, got None"),
        (lambda: LiveLearner(Towers), "model must be a torch.nn.Module, got <class"),
        (lambda: LiveLearner(Towers(), "embed"), r"embed must be a function\(model, batch\)"),
        (lambda: OnlineProxy(Towers(), "adam"), r"must be a torch\.optim\.Optimizer, got str"),
        (lambda: proxy_with(clip_norm=0.0), "clip_norm must be positive or None, got 0.0"),
        (lambda: proxy_with(scheduler="cosine"), "of its optimizer, got str; make it of the"),
        (
            lambda: proxy_with(scheduler=StepLR(torch.optim.SGD(Towers().parameters()), 1)),
            "scheduler must be a torch.optim.lr_scheduler of its optimizer, got StepLR",
        ),
        (
            lambda: OnlineProxy(Towers(), torch.optim.SGD(Towers().parameters(), lr=1.0)),
            r"holds none; make it of model\.parameters\(\)",
        ),
        (
            lambda: OnlineProxy(
                model := Towers().requires_grad_(requires_grad=False),
                torch.optim.SGD(model.parameters(), lr=1.0),
            ),
            "require gradients, but holds none",
        ),
    ],
)
def test_models_and_optimizers_of_the_wrong_kind_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
