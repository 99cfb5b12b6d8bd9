"""Storages of weights and links, each against products in float64."""

import itertools
import pickle

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import log_expit, log_softmax

from sklearn_mach._weights import STORAGES, Float32, Linear

R, B, D = 3, 4, 20
# of a weight, as a share of the largest of its feature
ROUNDING = {"float32": 0, "packed": 0.5001 / 127}


# Logarithms of probabilities of logits (n, R, B).
LINKS = {"softmax": lambda Z: log_softmax(Z, axis=2), "sigmoid": log_expit}


@pytest.fixture(params=itertools.product(STORAGES, LINKS), ids="-".join)
def linear(request):
    """A scorer of each storage and link, and the weights that it stands for."""
    storage, link = request.param
    rng = np.random.default_rng(0)
    W, b = rng.standard_normal((D, R * B)), rng.standard_normal(R * B)
    given = W.astype(np.float32), b.astype(np.float32)
    scorer = Linear.of(*(array.copy() for array in given), B, link, storage)
    weights, intercepts = scorer.storage.dense()
    error = np.abs(weights - given[0]).max(axis=1) / np.abs(given[0]).max(axis=1)
    assert error.max() <= ROUNDING[storage]
    assert_array_equal(intercepts, given[1])
    return scorer, weights.astype(np.float64), intercepts.astype(np.float64)


@pytest.mark.parametrize(
    "kind", ["float16", "float32", "float64", "sparse float32", "sparse float64"]
)
def test_scores_are_probabilities_of_products(linear, kind):
    scorer, W, b = linear
    X = np.random.default_rng(1).random((9, D))
    X = np.where(X < 0.6, 0, X).astype(kind.removeprefix("sparse "))
    logits = (X.astype(np.float64) @ W + b).reshape(9, R, B)
    if kind.startswith("sparse"):
        X = sp.csr_array(X)
    # float32: some 20 terms, each rounded to 6e-8 of their size
    close = {"rtol": 1e-5, "atol": 1e-5}
    expected = LINKS[scorer.link](logits)
    log_proba = scorer.bucket_scores(X, True, 1)
    assert_allclose(log_proba, expected, **close)
    proba = scorer.bucket_scores(X, False, R)
    assert_allclose(proba, np.exp(expected) / R, **close)


def test_repetitions_are_selected_and_joined(linear):
    scorer, W, b = linear
    W, b = W.reshape(D, R, B), b.reshape(R, B)
    chosen = scorer.select([2, 0])
    assert_array_equal(chosen.coef, W[:, [2, 0]].transpose(1, 2, 0))
    assert_array_equal(chosen.intercept, b[[2, 0]])
    whole = Linear.concatenate([scorer.select([0]), scorer.select([1, 2])])
    assert_array_equal(whole.coef, scorer.coef)
    assert_array_equal(whole.intercept, scorer.intercept)
    assert isinstance(whole.storage, Float32)  # features have one scale in others
    assert whole.link == chosen.link == scorer.link


def test_states_are_plain_and_give_the_same_scores(linear):
    scorer = linear[0]
    scorer.storage.check(D, R * B)
    state = pickle.loads(pickle.dumps(scorer.state()))
    again = Linear.from_state(state | {"other": 1}, B)
    X = np.random.default_rng(1).random((4, D))
    scores = scorer.bucket_scores(X, True, 1)
    assert_array_equal(again.bucket_scores(X, True, 1), scores)
    assert again.link == scorer.link
    assert Linear.from_state({"other": 1}, B) is None
    assert type(again.storage) is type(scorer.storage)


def test_states_of_older_versions_are_those_of_a_softmax():
    W, b = np.ones((D, R * B), np.float32), np.ones(R * B, np.float32)
    for state in (
        {"_weights": W, "_intercepts": b},
        {"_storage": ("float32", W, b)},
    ):
        scorer = Linear.from_state(state | {"other": 1}, B)
        assert scorer.link == "softmax"
        assert_array_equal(scorer.storage.weights, W)
        assert_array_equal(scorer.storage.intercepts, b)
