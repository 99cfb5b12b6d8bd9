"""MACH (Merged-Averaged Classifiers via Hashing) for scikit-learn."""

from ._classifier import MACHClassifier
from ._loading import load
from ._merging import merge
from ._pipelines import predict_topk
from ._search import MACHClassifierCV

__version__ = "0.1.0"
__all__ = [
    "MACHClassifier",
    "MACHClassifierCV",
    "__version__",
    "load",
    "merge",
    "predict_topk",
]
