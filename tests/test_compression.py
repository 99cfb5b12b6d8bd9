"""Models as small as the user asks: fewer weights, in 8 or 4 bits."""

import os
import pickle
import re
from copy import copy, deepcopy
from dataclasses import replace

import joblib
import numpy as np
import pytest
import scipy.sparse as sp
from helpers import DECODERS, PREDICTIONS, assert_state_is_plain
from numpy.testing import assert_allclose, assert_array_equal
from several import SIZES, planted
from sklearn.base import clone
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline

from sklearn_mach import MACHClassifier, MACHClassifierCV
from sklearn_mach._weights import Float32
from sklearn_mach.datasets import make_many_classes

SPARE = 2048  # bytes that the header of a file may take, less those that it takes
LEARNER = dict(n_repetitions=8, n_buckets=16, max_iter=3, random_state=0)


@pytest.fixture(scope="module")
def rows():
    """Sparse rows of unit length, and classes."""
    return make_many_classes(2400, 500, 100, random_state=0)


@pytest.fixture(scope="module")
def fitted(rows):
    return MACHClassifier(**LEARNER).fit(*rows)


@pytest.fixture
def model(fitted):
    return deepcopy(fitted)  # `partial_fit` trains weights in place


def storage_of(model):
    return model._fitted.model.scorer.storage


def unpacked(model):
    """The model with the same weights as float32."""
    scorer = model._fitted.model.scorer
    scorer = replace(scorer, storage=Float32(*scorer.storage.dense()))
    twin = copy(model)
    inner = model._fitted.model.replace(scorer=scorer)
    twin._fitted = model._fitted._replace(model=inner)
    return twin


def factors(X):
    """How much more than its magnitude a weight of each feature matters."""
    squares = X.multiply(X).sum(axis=0) if sp.issparse(X) else (X**2).sum(axis=0)
    squares = np.asarray(squares, float).ravel()
    return (squares / squares[squares > 0].mean()) ** (1 / 8)


def loss_of(small, model, X):
    """Squared errors of the weights, each times the square of what it matters more."""
    return ((factors(X) * (small.coef_.astype(float) - model.coef_)) ** 2).sum()


def state_bytes(model):
    return pickle.dumps(model.__getstate__())


# What stays -------------------------------------------------------------------------


def test_weights_of_eight_bits_predict_nearly_the_same(model, rows):
    X, y = rows
    small = model.compress()
    assert storage_of(small).bits == 8
    assert isinstance(small, MACHClassifier) and small is not model
    assert small.get_params() == model.get_params()
    largest = np.abs(model.coef_).max(axis=(0, 1))
    error = np.abs(small.coef_ - model.coef_)
    # half a scale, and the rounding of float32
    assert (error <= (0.5 + 1e-4) * largest / 127).all()
    assert_array_equal(small.intercept_, model.intercept_)
    assert_array_equal(small.bucket_table_, model.bucket_table_)
    # A logit misses at most the sum of |x| times half the scales.  Log probabilities
    # of buckets miss at most twice that, and so do their means.
    bound = 2 * abs(X) @ (0.5 * largest / 127)
    scores = small.decision_function(X), model.decision_function(X)
    assert (np.abs(scores[0] - scores[1]).max(axis=1) <= bound + 1e-4).all()
    assert bound.max() < 0.2
    assert (small.predict(X) == model.predict(X)).mean() > 0.98
    assert 0.99 < small.score(X, y) / model.score(X, y) < 1.01
    assert small.model_bytes_ < 0.5 * model.model_bytes_
    assert small.model_bytes_ == storage_of(small).n_bytes + small.bucket_table_.nbytes


def test_the_model_itself_stays_as_it_is(model, rows):
    X = rows[0][:50]
    before, state = model.coef_.copy(), state_bytes(model)
    scores, n_bytes = model.decision_function(X), model.model_bytes_
    for options in ({}, {"max_bytes": 40_000}, {"threshold": 0.5, "bits": 4}):
        small = model.compress(**options)
        small.predict(X)
        small.set_params(decoder="mean", max_bytes=10**9)
        small.calibrate(*(part[:300] for part in rows))
    assert state_bytes(model) == state
    assert_array_equal(model.coef_, before)
    assert model.model_bytes_ == n_bytes and model.max_bytes is None
    assert_array_equal(model.decision_function(X), scores)


def test_the_model_may_be_trained_further(model, rows):
    X, y = rows[0][:200], rows[1][:200]
    small = model.compress(max_bytes=40_000)
    state = state_bytes(small)
    model.partial_fit(X, y)
    assert state_bytes(small) == state  # they share nothing that changes
    expected = clone(model).fit(*rows).partial_fit(X, y)
    assert_array_equal(model.coef_, expected.coef_)


@pytest.mark.parametrize("bits", [8, 4])
def test_threshold_says_which_weights_stay(model, rows, bits):
    X = rows[0]
    matters = np.abs(model.coef_.astype(float)) * factors(X)
    none = model.compress(bits=bits)
    assert_array_equal(model.compress(bits=bits, threshold=0).coef_, none.coef_)
    before = none.coef_ != 0
    for share in (0.2, 0.5, 0.9, 0.99):
        threshold = np.quantile(matters, share)
        small = model.compress(threshold=threshold, bits=bits)
        stays = small.coef_ != 0
        # float32 of the thresholds of features
        assert not stays[matters < threshold * (1 - 1e-5)].any()
        lost = (matters >= threshold * (1 + 1e-5)) & ~stays
        largest = np.abs(model.coef_).max(axis=(0, 1)) / (127 if bits == 8 else 7)
        assert (np.abs(model.coef_) <= 0.5001 * largest)[lost].all()
        assert stays.sum() <= before.sum()
        if bits == 8:  # the scales do not depend on what is left out
            assert not (stays & ~before).any()
        before = stays
    nothing = model.compress(threshold=2 * matters.max(), bits=bits)
    assert not nothing.coef_.any()


@pytest.mark.parametrize("bits", [8, 4, None])
def test_models_fit_in_the_bytes_and_use_them(model, rows, bits, tmp_path):
    whole = {kind: model.compress(bits=kind) for kind in (8, 4)}
    whole[bits or 8].save(tmp_path / "whole")
    needed = os.path.getsize(tmp_path / "whole") + 2000
    losses = []
    for max_bytes in (20_000, 25_000, 30_000, 40_000, 50_000, 60_000, needed, 10**9):
        small = model.compress(max_bytes=max_bytes, bits=bits)
        small.save(tmp_path / "model")
        size = os.path.getsize(tmp_path / "model")
        assert small.model_bytes_ < size <= max_bytes
        found = storage_of(small).bits
        assert bits in (None, found)
        if (small.coef_ == 0).sum() > (whole[found].coef_ == 0).sum():
            assert size >= 0.97 * max_bytes - SPARE
        losses.append(loss_of(small, model, rows[0]))
    assert_array_equal(small.coef_, whole[bits or 8].coef_)
    # a threshold is found to some per cent
    assert (np.array(losses[1:]) <= np.array(losses[:-1]) * 1.02).all()
    assert losses[0] > 3 * losses[-1]


def test_bits_are_those_that_lose_less(model, rows):
    chosen = set()
    for max_bytes in (18_000, 22_000, 30_000, 45_000, 80_000):
        found = model.compress(max_bytes=max_bytes)
        each = [model.compress(max_bytes=max_bytes, bits=bits) for bits in (8, 4)]
        losses = [loss_of(small, model, rows[0]) for small in each]
        # sums in float32
        assert loss_of(found, model, rows[0]) <= min(losses) * (1 + 1e-3)
        chosen.add(storage_of(found).bits)
    assert chosen == {8, 4}


def test_what_fits_is_estimated_from_some_features_of_many(tmp_path):
    X, y = make_many_classes(3000, 6000, 50, random_state=0)
    parameters = dict(n_repetitions=4, n_buckets=8, max_iter=1, learning_rate=1.0)
    model = MACHClassifier(**parameters, random_state=0).fit(X, y)
    whole = {bits: (model.compress(bits=bits).coef_ == 0).sum() for bits in (8, 4)}
    for max_bytes in (70_000, 85_000, 110_000, 150_000, 190_000, 240_000):
        for bits in (8, 4):
            small = model.compress(max_bytes=max_bytes, bits=bits)
            small.save(tmp_path / "model")
            size = os.path.getsize(tmp_path / "model")
            assert size <= max_bytes
            is_full = size >= 0.97 * max_bytes - SPARE
            assert is_full or (small.coef_ == 0).sum() == whole[bits]


def test_features_without_values_and_models_without_weights(rows):
    X, y = rows[0][:500], rows[1][:500]
    empty = sp.csr_matrix((500, 30))
    model = MACHClassifier(**LEARNER).fit(sp.hstack([X, empty], "csr"), y)
    matters = np.abs(model.coef_.astype(float)) * factors(sp.hstack([X, empty]))
    for options in ({}, {"threshold": np.median(matters)}, {"max_bytes": 20_000}):
        small = model.compress(**options)
        assert not small.coef_[:, :, 500:].any() and small.coef_.any()
    assert not model.compress(threshold=np.inf).coef_.any()
    model = MACHClassifier(**LEARNER).fit(empty, y)
    for options in ({}, {"threshold": 0.1}, {"max_bytes": 20_000}):
        small = model.compress(**options)
        assert not small.coef_.any()
        assert_array_equal(small.predict(empty), model.predict(empty))


@pytest.mark.parametrize("options", [{}, {"max_bytes": 30_000}, {"threshold": 1.0}])
def test_nothing_depends_on_threads(model, options):
    one = model.compress(**options)
    for n_jobs in (1, 2, 3):
        other = copy(model).set_params(n_jobs=n_jobs).compress(**options)
        for part, its in zip(storage_of(other), storage_of(one), strict=True):
            assert_array_equal(part, its)


@pytest.mark.parametrize("max_bytes", [14_000, 40_000, 10**9])
def test_rows_choose_among_the_first_repetitions(model, rows, max_bytes, tmp_path):
    X, y = make_many_classes(3000, 500, 100, random_state=0)
    X, y = X[2400:], y[2400:]
    known = np.isin(y, model.classes_)
    small = model.compress(X[known], y[known], max_bytes=max_bytes)
    R = small.n_repetitions_
    assert R in (8, 6, 4, 3, 2)
    assert_array_equal(small.bucket_table_, model.bucket_table_[:, :R])
    assert small.coef_.shape == (R, 16, 500) and model.n_repetitions_ == 8
    small.save(tmp_path / "model")
    assert os.path.getsize(tmp_path / "model") <= max_bytes
    if max_bytes == 10**9:  # what fits loses nothing
        assert_array_equal(small.coef_, model.compress(bits=8).coef_[:R])
    twin = unpacked(small).calibrate(X[known], y[known])
    assert_array_equal(small.predict_proba(X), twin.predict_proba(X))
    for one, other in ((X, None), (None, y)):
        with pytest.raises(ValueError, match="both X and y, or neither"):
            model.compress(one, other, max_bytes=max_bytes)


# Predictions ------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("bits", [8, 4])
def test_predictions_are_those_of_the_same_weights_as_float32(
    model, rows, decoder, bits
):
    X = rows[0][:40]
    small = model.set_params(decoder=decoder).compress(bits=bits, threshold=0.3)
    twin = unpacked(small)
    assert_array_equal(small.coef_, twin.coef_)
    names = ["staged_score", "class_ranks"]  # want labels of the rows
    for name in PREDICTIONS.keys() - names:
        for part in (X, X[:1], X.toarray(), X.toarray()[:2]):
            found, expected = (
                PREDICTIONS[name](small, part),
                PREDICTIONS[name](twin, part),
            )
            assert_array_equal(found, expected)
    y = rows[1][:40]
    assert_array_equal(small.class_ranks(X, y), twin.class_ranks(X, y))
    assert list(small.staged_score(X, y)) == list(twin.staged_score(X, y))
    both = small.set_params(n_jobs=2), twin
    assert_array_equal(*(one.predict_topk(X, 7) for one in both))


def test_calibration_and_selection_keep_the_weights(model, rows):
    X, y = rows[0][:600], rows[1][:600]
    model.calibrate(X, y)
    small = model.compress(max_bytes=40_000)
    assert_array_equal(small._fitted.model.scalars, model._fitted.model.scalars)
    assert small.logit_adjustment_ == model.logit_adjustment_
    twin, before = unpacked(small), small.coef_
    proba = small.calibrate(X, y).predict_proba(X)
    assert_array_equal(proba, twin.calibrate(X, y).predict_proba(X))
    assert_array_equal(small.coef_, before)
    assert_allclose(proba.sum(axis=1), 1)
    scorer = small._fitted.model.scorer.select([6, 1, 1])
    assert scorer.is_compressed
    assert_array_equal(scorer.coef, before[[6, 1, 1]])


@pytest.mark.parametrize("sparse", [False, True])
def test_several_labels_a_row(sparse):
    X, Y, _ = planted(400, sparse=sparse)
    Y = sp.csr_array(Y) if sparse else Y
    model = MACHClassifier(**SIZES).fit(X, Y)
    small = model.compress(bits=8)
    assert small.multilabel_
    twin = unpacked(small)
    for name in ("predict_proba", "decision_function", "predict_topk"):
        found, expected = (getattr(one, name)(X) for one in (small, twin))
        assert_array_equal(found, expected)
    predicted = [one.predict(X) for one in (small, model)]
    assert type(predicted[0]) is type(predicted[1])
    assert abs(predicted[0] - predicted[1]).sum() <= 0.01 * Y.sum()
    assert MACHClassifier(**SIZES, max_bytes=6000).fit(X, Y).model_bytes_ <= 6000


def test_dense_rows(blobs):
    X, y = blobs(300, 20, 12, sparse=False)
    model = MACHClassifier(n_repetitions=6, n_buckets=4, random_state=0).fit(X, y)
    small = model.compress()
    assert_array_equal(small.predict_proba(X), unpacked(small).predict_proba(X))
    assert small.score(X, y) >= model.score(X, y) - 0.02


# Refusals ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_bytes": 0}, "max_bytes"),
        ({"max_bytes": -1}, "max_bytes must be a positive integer, or None; got -1"),
        ({"max_bytes": 1.5}, "max_bytes must be a positive integer.* got 1.5"),
        ({"max_bytes": "a"}, "max_bytes must be a positive integer.* got 'a'"),
        ({"threshold": -1}, "threshold must be at least 0, or None; got -1"),
        ({"threshold": "a"}, "threshold must be at least 0, or None; got 'a'"),
        ({"threshold": np.nan}, "threshold must be at least 0, or None; got nan"),
        ({"bits": 7}, "bits must be 8, 4 or None; got 7"),
        ({"bits": "8"}, "bits must be 8, 4 or None; got '8'"),
        ({"max_bytes": 10**6, "threshold": 0.1}, "max_bytes and threshold .*one of"),
        ({"max_bytes": 5000}, r"max_bytes=5000 is too small: .* takes \d+ bytes"),
    ],
)
def test_bad_arguments_are_refused(model, options, message):
    state = state_bytes(model)
    with pytest.raises(ValueError, match=message):
        model.compress(**options)
    assert state_bytes(model) == state
    if options.keys() == {"max_bytes"} and options["max_bytes"] != 5000:
        with pytest.raises(ValueError, match="'max_bytes' parameter"):
            MACHClassifier(**LEARNER, **options).fit(np.eye(3), range(3))


def test_what_cannot_be_compressed_is_refused(model, rows):
    with pytest.raises(ValueError, match="not fitted yet"):
        MACHClassifier().compress()
    small = model.compress()
    with pytest.raises(ValueError, match="compressed already"):
        small.compress(bits=4)
    X, y = rows[0][:300], rows[1][:300]
    base = MACHClassifier(MultinomialNB(), n_repetitions=4, random_state=0)
    with pytest.raises(ValueError, match="max_bytes=9000 is for the built-in learner"):
        clone(base).set_params(max_bytes=9000).fit(X, y)
    with pytest.raises(ValueError, match="compress is for models of the built-in"):
        base.fit(X, y).compress()


def test_the_bytes_needed_are_named_and_enough(model, rows, tmp_path):
    with pytest.raises(ValueError, match="R=8 repetitions and 100 classes") as error:
        model.compress(max_bytes=100)
    needed = int(re.search(r"takes (\d+) bytes", str(error.value))[1])
    with pytest.raises(ValueError, match=f"takes {needed} bytes"):
        model.compress(max_bytes=needed - 1)
    small = model.compress(max_bytes=needed)
    small.save(tmp_path / "model")
    # what is not known before is allowed for
    assert needed - 2000 <= os.path.getsize(tmp_path / "model") <= needed
    assert (small.coef_ != 0).sum() < 500


def test_a_limit_too_small_is_refused_before_training(rows, capsys):
    parameters = LEARNER | {"verbose": 1}
    model = MACHClassifier(**parameters, max_bytes=3000)
    with pytest.raises(ValueError, match=r"max_bytes=3000 is too small.* 500 features"):
        model.fit(*rows)
    assert capsys.readouterr().out == ""
    assert vars(model) == vars(MACHClassifier(**parameters, max_bytes=3000))
    model.set_params(max_bytes=60_000).fit(rows[0][:500], rows[1][:500])
    assert "epoch" in capsys.readouterr().out


def test_a_compressed_model_is_not_trained_further(model, rows):
    X, y = rows[0][:100], rows[1][:100]
    small = model.compress(max_bytes=50_000)
    grown = copy(small).set_params(warm_start=True, n_repetitions=10)
    limited = copy(model).set_params(max_bytes=50_000)
    for one, call, message in (
        (small, small.partial_fit, "partial_fit needs all weights.* is compressed"),
        (grown, grown.fit, "warm_start=True needs all weights.* is compressed"),
        (limited, limited.partial_fit, "max_bytes is for fit: .*max_bytes=None"),
    ):
        state = state_bytes(one)
        with pytest.raises(ValueError, match=message):
            call(X, y)
        assert state_bytes(one) == state
    fresh = MACHClassifier(**LEARNER, max_bytes=50_000)
    with pytest.raises(ValueError, match="max_bytes is for fit"):
        fresh.partial_fit(X, y, classes=np.arange(100))
    assert not hasattr(fresh, "classes_")
    small.fit(*rows)  # anew
    assert_array_equal(small.coef_, model.coef_)


# With the parameter, and beside scikit-learn ----------------------------------------


@pytest.mark.parametrize("max_bytes", [20_000, 45_000, 10**9])
def test_fit_with_a_limit_is_fit_and_compress(model, rows, max_bytes):
    limited = MACHClassifier(**LEARNER, max_bytes=max_bytes)
    assert limited.fit(*rows) is limited
    expected = model.set_params(max_bytes=max_bytes).compress(max_bytes=max_bytes)
    # headers of files, which count, are filled up to 64 bytes
    assert (limited.coef_ != expected.coef_).mean() < 0.01
    assert abs(limited.model_bytes_ - expected.model_bytes_) < 200
    assert limited.model_bytes_ <= max_bytes
    assert storage_of(limited).bits == storage_of(expected).bits
    assert_array_equal(limited.intercept_, expected.intercept_)
    assert limited.n_iter_ == expected.n_iter_
    again = clone(limited)
    assert again.max_bytes == max_bytes and not hasattr(again, "classes_")
    assert_array_equal(again.fit(*rows).coef_, limited.coef_)
    assert f"max_bytes={max_bytes}" in repr(limited)


@pytest.mark.parametrize("how", ["pickle", "joblib", "memory map"])
def test_compressed_models_are_pickled(model, rows, how, tmp_path):
    small, X = model.compress(max_bytes=40_000), rows[0][:30]
    assert_state_is_plain(small)
    if how == "pickle":
        loaded = pickle.loads(pickle.dumps(small))
        # the weights are not unpacked, nor is what training needs in it
        assert len(pickle.dumps(small)) < 45_000
    else:
        joblib.dump(small, tmp_path / "model")
        mode = "r" if how == "memory map" else None
        loaded = joblib.load(tmp_path / "model", mmap_mode=mode)
        assert isinstance(storage_of(loaded).data, np.memmap) == (mode == "r")
    assert_array_equal(loaded.coef_, small.coef_)
    for name in ("predict", "predict_proba", "decision_function", "predict_topk"):
        assert_array_equal(getattr(loaded, name)(X), getattr(small, name)(X))
    assert_array_equal(loaded.calibrate(X, rows[1][:30]).coef_, small.coef_)
    with pytest.raises(ValueError, match="is compressed"):
        loaded.partial_fit(X, rows[1][:30])


def test_models_of_a_time_without_the_parameter(model, rows):
    state = model.__getstate__()
    del state["max_bytes"]
    old = MACHClassifier.__new__(MACHClassifier)
    old.__setstate__(state)
    assert old.max_bytes is None
    assert old.get_params() == model.get_params() and repr(old) == repr(model)
    for options in ({}, {"max_bytes": 40_000}):
        small = old.compress(**options)
        assert_array_equal(small.coef_, model.compress(**options).coef_)


@pytest.mark.parametrize("name", ["_seen", "_order_seed"])
@pytest.mark.parametrize("options", [{"threshold": 0.01}, {"max_bytes": 40_000}])
def test_models_without_sums_of_rows_are_compressed(model, name, options):
    state = model.__getstate__()
    del state[name]
    old = MACHClassifier.__new__(MACHClassifier)
    old.__setstate__(state)
    assert (old.compress(**options).coef_ != 0).mean() > 0.3


def test_in_a_pipeline(rows):
    X, y = rows[0][:800], rows[1][:800]
    learner = MACHClassifier(**LEARNER | {"max_iter": 1})
    words = [" ".join(f"word{j}" for j in row.indices) for row in X]
    pipeline = make_pipeline(TfidfVectorizer(), learner).fit(words, y)
    score, n_bytes = pipeline.score(words, y), pipeline[-1].model_bytes_
    small = clone(pipeline).set_params(machclassifier__max_bytes=40_000).fit(words, y)
    assert small[-1].model_bytes_ <= 40_000 < n_bytes
    assert small.score(words, y) > 0.8 * score


def test_in_a_grid_search(rows):
    chosen = np.bincount(rows[1])[rows[1]] >= 20
    X, y = rows[0][chosen][:800], rows[1][chosen][:800]
    learner = MACHClassifier(**LEARNER | {"max_iter": 1})
    limits = [20_000, 50_000, None]
    search = GridSearchCV(learner, {"max_bytes": limits}, cv=2).fit(X, y)
    assert not np.isnan(search.cv_results_["mean_test_score"]).any()
    best = clone(learner).set_params(**search.best_params_).fit(X, y)
    assert_array_equal(search.predict(X), best.predict(X))


def test_the_search_for_sizes_refuses_a_limit_and_its_best_is_compressed(rows):
    X, y = rows
    learner = MACHClassifier(max_iter=2, random_state=0, max_bytes=40_000)
    search = MACHClassifierCV(learner, n_buckets=[8, 16], n_repetitions=6)
    with pytest.raises(ValueError, match="max_bytes=40000.*compress best_estimator_"):
        search.fit(X, y)
    best = search.set_params(classifier__max_bytes=None).fit(X, y).best_estimator_
    assert best.compress(max_bytes=40_000).model_bytes_ <= 40_000


def test_rows_set_aside_choose_repetitions_and_fit_probabilities():
    X, y = make_many_classes(12_000, 800, 300, signal=0.6, random_state=0)
    options = dict(n_buckets=16, max_iter=1, random_state=0)
    whole = MACHClassifier(**options).fit(X, y)
    limited = MACHClassifier(**options, max_bytes=60_000).fit(X, y)
    model = limited._fitted.model
    assert model.scalars is not None
    assert not np.array_equal(model.scalars, whole._fitted.model.scalars)
    assert model.n_repetitions <= whole.n_repetitions_
    table = whole.bucket_table_[:, : model.n_repetitions]
    assert_array_equal(limited.bucket_table_, table)
    assert len(np.unique(table, axis=0)) == 300  # all classes are told apart
    fixed = MACHClassifier(**options, n_repetitions=8, max_bytes=60_000).fit(X, y)
    assert fixed.n_repetitions_ == 8  # as given


def test_callbacks_count_no_bytes(rows):
    callback = pytest.importorskip("sklearn.callback")
    monitor = callback.ScoringMonitor(scoring="accuracy")
    watched = MACHClassifier(**LEARNER, max_bytes=40_000).set_callbacks(monitor)
    plain = MACHClassifier(**LEARNER, max_bytes=40_000).fit(*rows)
    assert_array_equal(watched.fit(*rows).coef_, plain.coef_)


def test_a_few_heavy_features_among_very_many_fit(rows):
    X, y = rows[0][:500], rows[1][:500]
    wide = sp.hstack([X, sp.csr_matrix((500, 60_000))], "csr")  # a sample has no weight
    model = MACHClassifier(**LEARNER).fit(wide, y)
    n_bytes = model.compress().model_bytes_
    small = model.compress(max_bytes=n_bytes - 30_000)
    assert n_bytes - 50_000 < small.model_bytes_ <= n_bytes - 30_000
    assert small.score(wide, y) > 0.8 * model.score(wide, y)
