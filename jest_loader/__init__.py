"""Joint example selection (JEST) for any training loop: super-batches in, sub-batches out."""

from jest_loader.dataset import JestDataset
from jest_loader.dense_scores import DenseScores, DenseSoftmaxScores
from jest_loader.protocols import (
    BadSamplesError,
    Embedder,
    Embeddings,
    ExampleValues,
    Scorer,
    Scores,
    Selector,
    Source,
    Stateful,
)
from jest_loader.ragged import RaggedBytes
from jest_loader.schedule import Schedule
from jest_loader.scorers.cached import CachedReference, CachedScores
from jest_loader.scorers.columns import ColumnReference
from jest_loader.scorers.learnability import EasyReference, HardLearner, Learnability
from jest_loader.scorers.models import FrozenReference, LiveLearner, OnlineProxy
from jest_loader.scorers.per_example import PerExample
from jest_loader.scorers.shrink import Shrink
from jest_loader.scores import ExampleScores, FactoredScores
from jest_loader.selection import (
    GibbsSelector,
    IndependentSelector,
    JointSelector,
    TopKSelector,
    UniformSelector,
)
from jest_loader.telemetry import Counts, SelectionStats

__version__ = "0.1.0"

__all__ = [
    "BadSamplesError",
    "CachedReference",
    "CachedScores",
    "ColumnReference",
    "Counts",
    "DenseScores",
    "DenseSoftmaxScores",
    "EasyReference",
    "Embedder",
    "Embeddings",
    "ExampleScores",
    "ExampleValues",
    "FactoredScores",
    "FrozenReference",
    "GibbsSelector",
    "HardLearner",
    "IndependentSelector",
    "JestDataset",
    "JointSelector",
    "Learnability",
    "LiveLearner",
    "OnlineProxy",
    "PerExample",
    "RaggedBytes",
    "Schedule",
    "Scorer",
    "Scores",
    "SelectionStats",
    "Selector",
    "Shrink",
    "Source",
    "Stateful",
    "TopKSelector",
    "UniformSelector",
]
