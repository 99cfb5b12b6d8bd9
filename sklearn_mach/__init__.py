"""MACH (Merged-Averaged Classifiers via Hashing) for scikit-learn."""

from ._classifier import MACHClassifier

__version__ = "0.1.0"
__all__ = ["MACHClassifier", "__version__"]
