"""The names that ``jest_loader`` has of its own."""

from jest_loader.batch import split
from jest_loader.embeddings import Embeddings
from jest_loader.loader.dataset import JestDataset
from jest_loader.loader.options import Options
from jest_loader.loader.schedule import Schedule
from jest_loader.loader.telemetry import Counts, SelectionStats
from jest_loader.protocols import (
    Embedder,
    ExampleValues,
    Scorer,
    Scores,
    Selector,
    Source,
    Stateful,
)
from jest_loader.ragged import RaggedBytes
from jest_loader.reference_cache import CachedLosses, CachedReference
from jest_loader.scoring.calibration import Calibration, calibrate
from jest_loader.scoring.column_reference import ColumnReference
from jest_loader.scoring.cross_fitted import CrossFitted
from jest_loader.scoring.dense import DenseScores, DenseSoftmaxScores
from jest_loader.scoring.learnability import EasyReference, HardLearner, Learnability
from jest_loader.scoring.models import FrozenReference, LiveLearner
from jest_loader.scoring.online_proxy import OnlineProxy
from jest_loader.scoring.per_example import PerExample
from jest_loader.scoring.scores import ExampleScores, FactoredScores
from jest_loader.scoring.shrink import Shrink
from jest_loader.seen import SeenRows
from jest_loader.selecting.selectors import (
    GibbsSelector,
    IndependentSelector,
    JointSelector,
    TopKSelector,
    UniformSelector,
)
from jest_loader.skipped import SkipRowsError
from jest_loader.version import __version__

__all__ = [
    "CachedLosses",
    "CachedReference",
    "Calibration",
    "ColumnReference",
    "Counts",
    "CrossFitted",
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
    "Options",
    "PerExample",
    "RaggedBytes",
    "Schedule",
    "Scorer",
    "Scores",
    "SeenRows",
    "SelectionStats",
    "Selector",
    "Shrink",
    "SkipRowsError",
    "Source",
    "Stateful",
    "TopKSelector",
    "UniformSelector",
    "__version__",
    "calibrate",
    "split",
]
