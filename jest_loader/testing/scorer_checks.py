"""Whether a scorer scores every candidate, and leaves the models and the batch as they were."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from jest_loader.batch import Batch, num_examples, split, take
from jest_loader.loader.dataset import JestDataset
from jest_loader.loader.options import Options
from jest_loader.protocols import Scorer, Scores, SharedScores, Snapshots, Trainable, WithLearner
from jest_loader.ranks.ranks import Collective
from jest_loader.testing.models import altered, models_of, untouched
from jest_loader.testing.scores import assert_scores_consistent
from jest_loader.testing.simulated_ranks import simulate_ranks

_LEAST_ROWS = 8
_TOLERANCE = 1e-3  # A model rounds batches of other sizes otherwise.


def check_scorer(
    make: Callable[[], Scorer],
    super_batch: Batch,
    *,
    models: Sequence[nn.Module] = (),
    ranks: bool = True,
) -> None:
    """Check a scorer, in this order.

    - It gives a finite logit for each candidate, the same each time, which needs no gradients.
    - Models keep their modes, gradients, weights and buffers; the batch and torch's generator stay
      as they are.
    - Its scores read like a conditional probability: ``assert_scores_consistent``.
    - Conditioned on the choices of two ranks, scores are those of one process with all candidates,
      and ``JointSelector`` chooses on both.
    - ``update`` and ``snapshot``, where it has them, do the same; a snapshot keeps the weights that
      it was taken with.

    Args:
        make: Returns a new scorer with models of its own, the same each time.
        super_batch: At least 8 candidates, an even number, all of which it can score.
        models: Models that it runs. Those in its attributes and closures are found by themselves.
        ranks: Whether it can score on several ranks.

    Raises:
        AssertionError: saying what it does otherwise, and what to do.
        ValueError: if the super-batch does not fit, or scorers share a model.
    """
    size = num_examples(super_batch)
    if size < _LEAST_ROWS or size % 2:
        raise ValueError(
            f"super_batch must have an even number of rows, at least {_LEAST_ROWS}, got {size}"
        )
    scorer = make()
    found = [*models_of(scorer), *models]
    shared = {id(model) for model in models_of(make())} & {id(model) for model in found}
    if shared:
        raise ValueError("make must return a scorer with models of its own, got the same again")
    scores = _check_scoring(scorer, super_batch, found)
    chosen = torch.randperm(size, generator=torch.Generator().manual_seed(0))[: size // 4]
    assert_scores_consistent(scores, chosen=chosen.to(scores.logits.device))
    if ranks:
        _check_shared(scorer, super_batch, scores)
    _check_update(scorer, super_batch, found)
    if ranks:
        _check_ranks(make, super_batch)
    _check_snapshot(scorer, super_batch, found)


def _check_scoring(scorer: Scorer, batch: Batch, models: list[nn.Module]) -> Scores:
    with untouched(models, batch, "score"):
        scores = scorer.score(batch)
    logits = scores.logits
    shape, expected = tuple(getattr(logits, "shape", ())), (num_examples(batch),)
    assert shape == expected, (
        f"logits must be one number per candidate, shape {expected}, got {shape}"
    )
    bad = (~logits.isfinite()).nonzero()[:, 0].tolist()
    assert not bad, (
        f"logits must be finite, got {logits[bad[0]].item()} for candidate {bad[0]}; give a "
        "super-batch all of whose rows can be scored, or mend the score"
    )
    assert not logits.requires_grad, (
        "logits must not keep a graph, which would hold the memory of the model's forward pass; "
        "score under torch.no_grad()"
    )
    assert torch.equal(scorer.score(batch).logits, logits), (
        "the same candidates must get the same scores each time; score in eval mode, and draw "
        "nothing at random"
    )
    return scores


def _check_shared(scorer: Scorer, batch: Batch, scores: Scores) -> None:
    """Each rank scores half of the candidates, and hears what the other has chosen."""
    half = num_examples(batch) // 2
    parts: list[SharedScores] = []
    chosen = torch.arange(half // 2, device=scores.logits.device)
    everyones: list[list[Tensor]] = []
    for rows in split(batch, half):
        part = scorer.score(rows)
        assert isinstance(part, SharedScores), (
            f"scores must have share and given_shared to be conditioned over ranks, and "
            f"{type(part).__name__} has not; add them, or pass ranks=False"
        )
        parts.append(part)
        everyones.append(part.share(chosen))
    joined = [torch.cat(shared) for shared in zip(*everyones, strict=True)]
    found = torch.cat([part.given_shared(chosen, joined).logits for part in parts])
    expected = scores.given(torch.cat([chosen, half + chosen])).logits
    torch.testing.assert_close(
        found,
        expected,
        rtol=_TOLERANCE,
        atol=_TOLERANCE,
        msg=lambda text: (
            "scores given the choices of two ranks must be those of one process that has chosen "
            f"the same; let share and given_shared carry all that given uses: {text}"
        ),
    )


def _check_ranks(make: Callable[[], Scorer], batch: Batch) -> None:
    halves = list(split(batch, num_examples(batch) // 2))
    size = num_examples(halves[0]) // 2

    def run(group: Collective) -> Batch:
        half = halves[group.rank]
        dataset = JestDataset(
            [half],
            make(),
            super_batch_size=num_examples(half),
            sub_batch_size=size,
            options=Options(group=group, own_rows=True),
        )
        return next(iter(dataset))

    try:
        chosen = simulate_ranks(2, run)
    except ValueError as error:
        raise AssertionError(
            f"JointSelector must choose on two ranks, or pass ranks=False; it said: {error}"
        ) from error
    assert [num_examples(rows) for rows in chosen] == [size, size]


def _check_update(scorer: object, batch: Batch, models: list[nn.Module]) -> None:
    if not isinstance(scorer, Trainable):
        return
    sub_batch = take(batch, torch.arange(num_examples(batch) // 2))
    with untouched(models, sub_batch, "update", learns=True):
        scorer.update(sub_batch)


def _check_snapshot(scorer: Scorer, batch: Batch, models: list[nn.Module]) -> None:
    learner = scorer.learner if isinstance(scorer, WithLearner) else scorer
    if not isinstance(scorer, Snapshots) or not isinstance(learner, Snapshots):
        return
    before = scorer.score(batch).logits
    with untouched(models, batch, "snapshot"):
        taken = scorer.snapshot()
    assert torch.equal(taken.score(batch).logits, before), (
        "a snapshot must score as the scorer does when it is taken; copy weights and buffers"
    )
    if learner.snapshot() is learner:  # Only update changes its weights.
        return
    with altered(models):
        assert torch.equal(taken.score(batch).logits, before), (
            "a snapshot must go on scoring with the weights that it was taken with, but changed "
            "with the model; copy them, or score with what was copied"
        )
