"""check_scorer passes the scorers of the package, and names what each broken one does."""

from copy import copy, deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.functional import softplus

from jest_loader import (
    CachedReference,
    ColumnReference,
    EasyReference,
    ExampleScores,
    FrozenReference,
    HardLearner,
    Learnability,
    LiveLearner,
    OnlineProxy,
    PerExample,
)
from jest_loader.testing.conformance import check_scorer
from jest_loader.testing.models import models_of
from tests.helpers import random_embeddings
from tests.scoring.test_scorers import Towers, batch_of

SIZE = 16


def super_batch():
    stored = random_embeddings(SIZE, 5, seed=4, dtype=torch.float32)
    return {**batch_of(SIZE), "ref_image": stored.image, "ref_text": stored.text}


def towers(seed=0):
    torch.manual_seed(seed)
    return Towers()


def frozen():
    return towers(1).requires_grad_(False).eval()


def proxy(loss):
    model = towers()
    return OnlineProxy(model, torch.optim.SGD(model.parameters(), lr=1e-3), loss=loss)


def cached():
    stored = random_embeddings(SIZE, 5, seed=4)
    image, text = (side.numpy().astype(np.float16) for side in (stored.image, stored.text))
    return CachedReference(image, text, 10.0, -5.0)


def column():
    return ColumnReference("ref_image", "ref_text", logit_scale=10.0, logit_bias=-5.0)


def loss_of(model, batch):
    pair = model.embed(batch)
    return softplus(-(pair.image * pair.text).sum(dim=1))


SCORERS = {
    "live": lambda loss: Learnability(LiveLearner(towers()), FrozenReference(towers(1)), loss),
    "proxy": lambda loss: Learnability(proxy(loss), FrozenReference(towers(1)), loss),
    "cached": lambda loss: Learnability(LiveLearner(towers()), cached(), loss),
    "column": lambda loss: Learnability(LiveLearner(towers()), column(), loss),
    "micro-batches": lambda loss: HardLearner(LiveLearner(towers(), micro_batch_size=3), loss),
    "easy": lambda loss: EasyReference(FrozenReference(towers()), loss),
    "easy and cached": lambda loss: EasyReference(cached(), loss),
    "per example": lambda loss: PerExample(towers(), loss_of, PerExample(frozen(), loss_of)),
}


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
@pytest.mark.parametrize("make", SCORERS.values(), ids=SCORERS)
def test_the_scorers_of_the_package_pass(make, loss):
    check_scorer(partial(make, loss), super_batch())


class Sound:
    """Scores with a model as a scorer should; what breaks a promise overrides a method."""

    def __init__(self):
        self.model = towers()

    def losses(self, batch):
        modes = {module: module.training for module in self.model.modules()}
        self.model.eval()
        with torch.no_grad():
            found = loss_of(self.model, batch)
        for module, mode in modes.items():
            module.training = mode
        return found

    def score(self, super_batch):
        return ExampleScores(self.losses(super_batch))

    def update(self, sub_batch):
        pass

    def snapshot(self):
        taken = copy(self)
        taken.model = deepcopy(self.model)
        return taken


def test_a_sound_scorer_passes():
    check_scorer(Sound, super_batch())


class LeavesEvalMode(Sound):
    def losses(self, batch):
        self.model.eval()
        with torch.no_grad():
            return loss_of(self.model, batch)


class LeavesTrainMode(Sound):
    def losses(self, batch):
        found = super().losses(batch)
        self.model.train()
        return found


class AddsToGradients(Sound):
    def losses(self, batch):
        self.model.image.weight.grad += 1
        return super().losses(batch)


class UpdatesStatistics(Sound):
    def losses(self, batch):
        self.model.frozen_norm.running_mean += 1
        return super().losses(batch)


class ChangesItsBatch(Sound):
    def losses(self, batch):
        batch["image"].mul_(2)
        return super().losses(batch)


class AddsAColumn(Sound):
    def losses(self, batch):
        batch["embedded"] = batch["image"]
        return super().losses(batch)


class DrawsAtRandom(Sound):
    def losses(self, batch):
        return super().losses(batch) + torch.rand(len(batch["image"]))


class DrawsFromItsOwnGenerator(Sound):
    generator = torch.Generator()

    def losses(self, batch):
        return super().losses(batch) + torch.rand(len(batch["image"]), generator=self.generator)


class KeepsAGraph(Sound):
    def losses(self, batch):
        return super().losses(batch).requires_grad_()


class HasTwoColumns(Sound):
    def score(self, super_batch):
        losses = self.losses(super_batch)
        scores = ExampleScores(losses)
        object.__setattr__(scores, "logits", torch.stack([losses, losses], dim=1))
        return scores


class ScoresNotANumber(Sound):
    def losses(self, batch):
        return super().losses(batch).index_fill(0, torch.tensor([5]), torch.nan)


class Alone:
    """Scores without what several ranks need."""

    def __init__(self, values):
        self.logits = values

    def given(self, chosen):
        return Alone(self.logits.index_fill(0, chosen, -torch.inf))


class CannotShare(Sound):
    def score(self, super_batch):
        return Alone(self.losses(super_batch))


class Forgetful(Alone):
    def given(self, chosen):
        return Forgetful(self.logits)


class CanBeDrawnTwice(Sound):
    def score(self, super_batch):
        return Forgetful(self.losses(super_batch))


class Diverse(Alone):
    """What is chosen lowers all others, by an amount that ranks do not tell each other."""

    def given(self, chosen):
        return Diverse((self.logits - len(chosen)).index_fill(0, chosen, -torch.inf))

    def share(self, chosen):
        return []

    def given_shared(self, chosen, everyones):
        return self.given(chosen)


class DoesNotHearOthers(Sound):
    def score(self, super_batch):
        return Diverse(self.losses(super_batch))


class UpdatesAMode(Sound):
    def update(self, sub_batch):
        self.model.train()


class UpdatesItsBatch(Sound):
    def update(self, sub_batch):
        sub_batch.clear()


class TakesNoCopy(Sound):
    def snapshot(self):
        return copy(self)


class TakesAnother(Sound):
    def __init__(self):
        super().__init__()
        self.other = towers(9)

    def snapshot(self):
        taken = copy(self)
        taken.model = self.other
        return taken


BROKEN = {
    LeavesEvalMode: r"score left Towers\. in eval mode; put the mode of each submodule back",
    LeavesTrainMode: r"score left Towers.frozen_norm in training mode; put the mode",
    AddsToGradients: r"score changed the gradient of image.weight of Towers \(0\); score in eval",
    UpdatesStatistics: r"score changed frozen_norm.running_mean of Towers",
    ChangesItsBatch: r"score must not change its batch; work on a copy",
    AddsAColumn: r"score must not change its batch; work on a copy",
    DrawsAtRandom: r"score drew from torch's generator, so the training around it",
    DrawsFromItsOwnGenerator: r"the same candidates must get the same scores each time",
    KeepsAGraph: r"logits must not keep a graph, .*; score under torch.no_grad\(\)",
    HasTwoColumns: r"one number per candidate, shape \(16,\), got \(16, 2\)",
    ScoresNotANumber: r"logits must be finite, got nan for candidate 5; give a super-batch",
    CannotShare: r"scores must have share and given_shared .*, and Alone has not",
    CanBeDrawnTwice: r"chosen candidates must have logits of minus infinity",
    DoesNotHearOthers: r"scores given the choices of two ranks must be those of one process",
    UpdatesAMode: r"update left Towers.frozen_norm in training mode",
    UpdatesItsBatch: r"update must not change its batch",
    TakesNoCopy: r"a snapshot must go on scoring with the weights that it was taken with",
    TakesAnother: r"a snapshot must score as the scorer does when it is taken",
}


@pytest.mark.parametrize(("kind", "message"), BROKEN.items(), ids=[k.__name__ for k in BROKEN])
def test_a_broken_scorer_is_named(kind, message):
    with pytest.raises(AssertionError, match=message):
        check_scorer(kind, super_batch())


def test_a_scorer_for_one_rank_passes_where_that_is_said():
    check_scorer(CannotShare, super_batch(), ranks=False)


def test_models_are_found_in_attributes_closures_and_methods():
    model, other = towers(), towers(1)
    scorer = PerExample(model, lambda model, batch: loss_of(other, batch))
    assert {id(one) for one in models_of(scorer)} == {id(model), id(other)}
    assert models_of([partial(loss_of, model), {"other": other.embed}]) == [model, other]


def test_a_super_batch_that_does_not_fit_and_a_shared_model_are_refused():
    with pytest.raises(ValueError, match=r"an even number of rows, at least 8, got 7"):
        check_scorer(Sound, batch_of(7))
    model = towers()
    with pytest.raises(ValueError, match=r"a scorer with models of its own, got the same again"):
        check_scorer(lambda: PerExample(model, loss_of), super_batch())
