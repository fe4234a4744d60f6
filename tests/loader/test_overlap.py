"""overlap=True: the next sub-batch is chosen during training, by the weights from before it."""

import copy
import threading
import time

import pytest
import torch
from torch.nn.functional import normalize

from jest_loader import (
    Embeddings,
    ExampleScores,
    FrozenReference,
    HardLearner,
    JointSelector,
    Learnability,
    LiveLearner,
    PerExample,
    SkipRowsError,
    UniformSelector,
)
from jest_loader.ops.losses import contrastive_loss
from tests.helpers import Counting, jest_dataset

SIZES = {"super_batch_size": 40, "sub_batch_size": 8}


class Model:
    """A weight that the training loop moves and that scores turn on."""

    def __init__(self, weight=0.0):
        self.weight = weight

    def train(self, batch):
        self.weight += 1 + float(batch["number"].sum()) % 7

    def score(self, super_batch):
        return ExampleScores(torch.sin(super_batch["number"].double() * (1 + self.weight)) * 3)

    def snapshot(self):
        return Model(self.weight)


def make(model, *, overlap=True, num_batches=30, **options):
    source = Counting(num_batches, 8)
    return jest_dataset(source, model, JointSelector(2), overlap=overlap, **SIZES, **options)


def run(dataset, model, num_epochs=1):
    found = []
    for _ in range(num_epochs):
        for batch in dataset:
            found.append(batch["number"].tolist())
            model.train(batch)
    return found


class OneStepStale:
    """Scores with the weight from before the last step of training; does not overlap."""

    def __init__(self, model):
        self.model, self.next_weight = model, model.weight

    def score(self, super_batch):
        weight, self.next_weight = self.next_weight, self.model.weight
        return Model(weight).score(super_batch)


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_selections_are_those_of_weights_one_step_old(prefetch):
    model = Model()
    found = run(make(model, prefetch=prefetch), model)
    model = Model()
    source = Counting(30, 8)
    expected = run(jest_dataset(source, OneStepStale(model), JointSelector(2), **SIZES), model)
    assert found == expected
    assert len(found) == 6
    fresh = Model()
    assert found != run(make(fresh, overlap=False), fresh)


def test_scoring_runs_while_the_loop_trains():
    class Slow(Model):
        def score(self, super_batch):
            time.sleep(0.1)
            return super().score(super_batch)

        def snapshot(self):
            return Slow(self.weight)

    dataset = make(Slow(), num_batches=60)
    batches = iter(dataset)
    next(batches)
    started = time.perf_counter()
    waiting_ms = []
    for _ in batches:
        waiting_ms.append(dataset.stats.waiting_ms)
        assert dataset.stats.scoring_ms >= 100
        time.sleep(0.1)  # A step of training.
    assert len(waiting_ms) == 11
    assert time.perf_counter() - started < 11 * 0.17, "steps take max(train, score), not the sum"
    assert sorted(waiting_ms)[5] < 60


@pytest.mark.parametrize("save_at", [1, 2, 5])
def test_a_run_resumed_goes_on_as_the_one_that_saved(save_at):
    model, expected = Model(), []
    dataset = make(model)
    for number, batch in enumerate(dataset, start=1):
        model.train(batch)
        expected.append(batch["number"].tolist())
        if number == save_at:
            state, weight = dataset.state_dict(), model.weight
    model = Model(weight)
    dataset = make(model)
    dataset.load_state_dict(state)
    assert run(dataset, model) == expected[save_at:]


def test_a_proxy_learns_between_two_choices():
    events = []

    class Proxy(Model):
        def score(self, super_batch):
            time.sleep(0.01)
            events.append(("score", threading.current_thread().name))
            return super().score(super_batch)

        def update(self, sub_batch):
            events.append(("update", threading.current_thread().name))
            self.weight += 1

        def snapshot(self):
            return self

    proxy = Proxy()
    found = run(make(proxy), Model())
    assert [kind for kind, _ in events] == ["score", "update"] * 6
    assert {name for kind, name in events if kind == "update"} == {"MainThread"}
    assert {name for kind, name in events if kind == "score"} == {"jest-loader chooser"}
    in_turn = Proxy()
    assert found == run(make(in_turn, overlap=False), Model())


def test_an_error_of_the_scorer_arrives_in_its_place():
    class Breaking(Model):
        calls = 0

        def score(self, super_batch):
            Breaking.calls += 1
            if Breaking.calls == 3:
                raise ValueError("no third score")
            return super().score(super_batch)

        def snapshot(self):
            return self

    batches = iter(make(Breaking()))
    next(batches), next(batches)
    with pytest.raises(ValueError, match="no third score"):
        next(batches)
    with pytest.raises(StopIteration):
        next(batches)


def test_an_early_break_ends_the_threads():
    before = threading.active_count()
    model = Model()
    dataset = make(model, num_batches=300)
    for _ in dataset:
        break
    assert threading.active_count() == before
    assert len(run(dataset, model)) == 60
    assert dataset.epoch == 2


def test_a_dataset_that_is_dropped_ends_its_threads():
    before = threading.active_count()
    batches = iter(make(Model(), num_batches=300))
    next(batches)
    del batches
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


class Towers(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = torch.nn.Linear(8, 6), torch.nn.Linear(8, 6)
        self.norm = torch.nn.BatchNorm1d(6)

    def embed(self, batch):
        rows = torch.sin(batch["number"][:, None] * torch.arange(1.0, 9.0))
        image, text = self.norm(self.image(rows)), self.text(rows)
        return Embeddings(normalize(image, dim=1), normalize(text, dim=1), 15.0, -3.0)


class StaleTowers:
    """Embeds with the weights from before the last step of training, copied by hand."""

    def __init__(self, model):
        self.model, self.next_model = model, copy.deepcopy(model)

    def embed(self, batch):
        model, self.next_model = self.next_model, copy.deepcopy(self.model)
        return LiveLearner(model).embed(batch)


@pytest.mark.parametrize("scored_by", [HardLearner, Learnability])
def test_a_live_learner_scores_with_a_copy_of_its_weights(scored_by):
    def train(learner, model, **options):
        reference = [] if scored_by is HardLearner else [FrozenReference(Towers())]
        source = Counting(30, 8)
        dataset = jest_dataset(source, scored_by(learner, *reference), **SIZES, **options)
        optimizer = torch.optim.SGD(model.parameters(), lr=3.0)
        found = []
        for batch in dataset:
            found.append(batch["number"].tolist())
            assert model.training
            loss = contrastive_loss(model.embed(batch), "sigmoid")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return found

    model = Towers()
    found = train(LiveLearner(model, micro_batch_size=20), model, overlap=True)
    model = Towers()
    assert found == train(StaleTowers(model), model)
    model = Towers()
    assert found != train(LiveLearner(model), model)


def test_rho_loss_scores_with_a_copy_of_the_weights():
    model = torch.nn.Linear(1, 1)
    scorer = PerExample(model, lambda model, batch: model(batch["x"])[:, 0])
    batch = {"x": torch.ones(3, 1)}
    kept = scorer.snapshot()
    before = kept.values(batch)
    with torch.no_grad():
        model.bias += 1
    assert torch.equal(kept.values(batch), before)
    assert torch.equal(scorer.values(batch), before + 1)
    assert torch.equal(scorer.snapshot().values(batch), before + 1)


def test_scorers_that_cannot_keep_a_copy_are_refused():
    class NoCopy:
        def score(self, super_batch):
            return ExampleScores(super_batch["number"].float())

    class Around(Model):
        learner = NoCopy()

    for scorer in (NoCopy(), Around()):
        with pytest.raises(ValueError, match=r"with a method snapshot\(\), but NoCopy has none"):
            make(scorer)
    jest_dataset(Counting(30, 8), None, UniformSelector(), overlap=True, **SIZES)


@pytest.mark.parametrize("save", [True, False])
def test_a_choice_that_a_saved_state_discards_is_not_counted(save):
    model = Model()
    turned_away = []

    def materialize(batch):
        # The first choice ahead meets one bad candidate, what is chosen in its place none.
        if len(turned_away) == 0 and model.weight == 0 and batch["number"].min() >= 40:
            turned_away.append(int(batch["number"][0]))
            raise SkipRowsError({0: "turned away"})
        return batch

    dataset = make(model, num_batches=15, materialize=materialize)
    batches = iter(dataset)
    next(batches)
    while not turned_away:
        time.sleep(0.001)
    model.weight = 1.0
    if save:
        dataset.state_dict()
    next(batches)
    next(batches)
    assert dataset.counts.skipped == (0 if save else 1)
