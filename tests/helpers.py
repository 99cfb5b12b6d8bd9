"""What several test files use."""

import tracemalloc

import numba
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import BaseEstimator, ClassifierMixin

from sklearn_mach import _decoding
from sklearn_mach.metrics import class_ranks

DECODERS = list(_decoding.DECODERS)
SMOOTHING = 1e-3  # of the probabilities of base classifiers, as documented
TABLE = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [2, 1]])

PREDICTIONS = {
    "predict": lambda model, X: model.predict(X),
    "predict_topk": lambda model, X: model.predict_topk(X, 2),
    "predict_topk with probabilities": lambda model, X: model.predict_topk(
        X, 2, return_proba=True
    )[1],
    "decision_function": lambda model, X: model.decision_function(X),
    "predict_proba": lambda model, X: model.predict_proba(X),
    "predict_log_proba": lambda model, X: model.predict_log_proba(X),
    "staged_predict": lambda model, X: list(model.staged_predict(X)),
    "staged_predict_topk": lambda model, X: list(model.staged_predict_topk(X, 2)),
    "staged_score": lambda model, X: list(model.staged_score(X, np.zeros(len(X)))),
    "class_ranks": lambda model, X: class_ranks(model, X, np.zeros(len(X))),
}
predictions = pytest.mark.parametrize("call", PREDICTIONS.values(), ids=PREDICTIONS)

needs_compilation = pytest.mark.skipif(
    numba.config.DISABLE_JIT, reason="too slow at the sizes that show it"
)


class ExactBuckets(ClassifierMixin, BaseEstimator):
    """A perfect bucket classifier, for rows that are the class probabilities.

    Fitted on the identity matrix it learns the bucket of each class; the probability
    of a bucket is the sum over its classes.
    """

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.members_ = X.T @ (np.asarray(y)[:, None] == self.classes_) > 0
        return self

    def predict_proba(self, X):
        return X @ self.members_

    def predict(self, X):
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


def assert_same_model(one, other):
    assert_array_equal(one.bucket_table_, other.bucket_table_)
    assert_array_equal(one.coef_, other.coef_)
    assert_array_equal(one.intercept_, other.intercept_)
    assert one.n_iter_ == other.n_iter_


def mapped(X, folder):
    np.save(folder / "X.npy", X)
    return np.load(folder / "X.npy", mmap_mode="r")


def peak_of(function, *args, **options):
    """What the function returns, and the most bytes that it held at a time."""
    tracemalloc.start()
    result = function(*args, **options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return result, peak


def bucket_scores(model, X):
    """Bucket scores (n, R, B) of a fitted classifier, scaled for its decoder."""
    return model._fitted.model.bucket_scores(X, model._how())


def set_offset(model, offset):
    """Give a fitted classifier the offsets (K,) of a logit adjustment."""
    fitted = model._fitted.model.replace(offset=offset)
    model._fitted = model._fitted._replace(model=fitted)


def assert_state_is_plain(model):
    """What is pickled, beside parameters, is arrays, numbers, names, and lists of them.

    Other classes would tie pickles to the modules of this version.
    """

    def is_plain(value):
        if isinstance(value, (tuple, list)):
            return all(map(is_plain, value))
        return isinstance(value, (np.ndarray, np.generic, int, float, str, type(None)))

    for name, value in model.__getstate__().items():
        if name not in model.get_params():
            assert is_plain(value), name
