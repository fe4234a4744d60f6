"""The arms: how each chooses its sub-batches; and the settings that they are compared in."""

from dataclasses import dataclass
from typing import Literal

from bench.joint.learner import TwoTowers
from bench.joint.sources import Order
from bench.joint.training import LR
from jest_loader import (
    ColumnReference,
    EasyReference,
    IndependentSelector,
    JointSelector,
    Learnability,
    LiveLearner,
    Scorer,
    Selector,
    UniformSelector,
)
from jest_loader.protocols import Loss

RATIO = 5
"""Candidates of an example that is chosen: the filter ratio is 0.8."""
GAINS = (1, 4, 16)


@dataclass(frozen=True)
class Setting:
    """What the arms that are compared with each other have in common.

    Args:
        batch_size: Examples trained on at once.
        steps: Of training.
        loss: Of learner and reference.
        order: What stands together in a super-batch.
        reference: Which of ``REFERENCES`` steers.
        wrong: The share of captions that are shuffled.
        lr: The largest learning rate, the uniform arm's best.
        languages: Whether the pool is German, as the test and the reference, or of all languages.
    """

    batch_size: int = 512
    steps: int = 600
    loss: Loss = "sigmoid"
    order: Order = "random"
    reference: str = "strong"
    wrong: float = 0.2
    lr: float = LR
    languages: Literal["german", "all"] = "german"


@dataclass(frozen=True)
class Arm:
    """How sub-batches are chosen.

    Args:
        selector: Draws them.
        easy: Whether candidates are scored by the reference alone.
    """

    selector: Selector
    easy: bool = False

    @property
    def selects(self) -> bool:
        """Whether anything is scored."""
        return not isinstance(self.selector, UniformSelector)

    def scorer(self, model: TwoTowers, reference: ColumnReference, loss: Loss) -> Scorer | None:
        """What scores for it; None where nothing does."""
        if not self.selects:
            return None
        if self.easy:
            return EasyReference(reference, loss)
        return Learnability(LiveLearner(model), reference, loss)


ARMS = {
    "uniform": Arm(UniformSelector()),
    **{f"independent-{gain}": Arm(IndependentSelector(gain=gain)) for gain in GAINS},
    **{f"joint-{gain}": Arm(JointSelector(gain=gain)) for gain in GAINS},
    "easy": Arm(JointSelector(), easy=True),
}
"""By name; the number is the gain."""
