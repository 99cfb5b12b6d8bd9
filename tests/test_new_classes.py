"""Labels that `partial_fit` meets for the first time."""

import pickle

import numpy as np
import pytest
import reference
import scipy.sparse as sp
from helpers import assert_same_model, needs_compilation
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.linear_model import SGDClassifier
from sklearn.naive_bayes import GaussianNB, MultinomialNB

from sklearn_mach import MACHClassifier, load
from sklearn_mach._hashing import add_classes, draw_table, find_twins
from sklearn_mach.metrics import class_ranks, neg_log_loss, top_k_score

SIZES = {"n_repetitions": 4, "n_buckets": 3, "random_state": 0}
BASES = [None, MultinomialNB(), SGDClassifier(loss="log_loss", random_state=0)]


def copy_of(model):
    return pickle.loads(pickle.dumps(model))


# The table ----------------------------------------------------------------------------


@pytest.mark.parametrize("hashing", ["balanced", "universal"])
@pytest.mark.parametrize(
    ("n_classes", "n_repetitions", "n_buckets", "n_new"),
    [(7, 3, 5, 30), (20, 2, 5, 5), (1, 2, 4, 15), (9, 6, 3, 40), (5, 1, 9, 4)],
)
def test_rows_equal_the_slow_reference(
    n_classes, n_repetitions, n_buckets, n_new, hashing
):
    table = np.array([[0] * n_repetitions])
    if n_classes > 1:
        seeds = list(range(n_repetitions))
        table = draw_table(n_classes, n_buckets, seeds, "balanced")
        if hashing == "universal" and n_buckets**n_repetitions > 9 * n_classes**2:
            table = draw_table(n_classes, n_buckets, seeds, hashing)
    starts = np.random.default_rng(n_classes).integers(
        0, n_buckets, (n_new, n_repetitions)
    )
    known = np.random.default_rng(0).random((n_repetitions, n_buckets)) < 0.8
    known[np.arange(n_repetitions)[:, None], table.T] = True
    for allowed in (np.ones_like(known), known):
        n_free = np.prod(allowed.sum(axis=1)) - n_classes
        n_added = min(n_new, n_free)
        buckets = [np.flatnonzero(row).tolist() for row in allowed]
        expected = reference.add_classes(table.tolist(), starts[:n_added], buckets)
        new = add_classes(table, n_added, n_buckets, allowed)
        assert new.dtype == table.dtype
        assert_array_equal(new, np.reshape(expected, (n_added, n_repetitions)))
        if n_added < n_new:
            with pytest.raises(ValueError, match=f"room for only {n_added} more|no mo"):
                add_classes(table, n_new, n_buckets, allowed)


@needs_compilation
@pytest.mark.parametrize(
    ("n_classes", "n_repetitions", "n_buckets"),
    [(20_000, 8, 128), (3_000, 2, 60), (50_000, 3, 40)],
)
def test_buckets_stay_even_and_rows_distinct(n_classes, n_repetitions, n_buckets):
    table = draw_table(n_classes, n_buckets, range(n_repetitions), "balanced")
    is_full = n_classes > n_buckets**n_repetitions / 2  # so that some have to move
    for n_new in (1, 99, 500):
        new = add_classes(table, n_new, n_buckets)
        assert_array_equal(new, add_classes(table, n_new, n_buckets))
        grown = np.concatenate([table, new])
        assert find_twins(grown, n_buckets) is None
        for column in grown.T:
            assert np.ptp(np.bincount(column, minlength=n_buckets)) <= 1 + is_full
        table = grown
    if n_repetitions == 8:  # two new classes meet as often as any two
        pairs = new[:, None] == new
        chance = (pairs.sum() - new.size) / (pairs.size - new.size)
        assert chance < 1.2 / n_buckets


def test_emptiest_buckets_go_first():
    table = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [2, 2]], np.uint8)
    first = add_classes(table, 2, 4)
    assert_array_equal(first[:, 0], [3, first[1, 0]])
    assert_array_equal(first[:, 1], [3, first[1, 1]])
    assert set(first[1]) <= {2, 3}


def test_there_may_be_no_room(blobs):
    X, y = blobs(60)
    model = MACHClassifier(n_repetitions=1, n_buckets=5, random_state=0)
    model.fit(X[y < 5], y[y < 5])
    with pytest.raises(ValueError, match=r"1 new classes.*no more.*n_repetitions=2"):
        model.partial_fit(X, y)
    assert_array_equal(model.classes_, range(5))
    room = MACHClassifier(hashing=np.arange(5)[:, None], n_buckets=6)
    room.fit(X[y < 5], y[y < 5]).partial_fit(X, y)
    assert_array_equal(np.sort(room.bucket_table_[:, 0]), range(6))
    with pytest.raises(ValueError, match="2 new classes .* room for no more"):
        room.partial_fit(X, y + 2)


# Learning -----------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["fit", "partial_fit"])
@pytest.mark.parametrize("base", BASES)
def test_labels_join_where_they_belong(blobs, base, start):
    X, y = blobs(600)
    X, names = abs(X), np.array(["b", "d", "f", "aa", "e and more", "z"])[y]
    old, test = (y < 3) & (np.arange(600) < 400), np.arange(600) >= 400
    model = MACHClassifier(base, **SIZES)
    if start == "fit":
        model.fit(X[old], names[old])
    else:
        model.partial_fit(X[old], names[old], classes=["b", "d", "f"])
    table, fitted = model.bucket_table_, model._fitted
    scores = model.decision_function(X)
    for _ in range(3):
        model.partial_fit(X[~test], names[~test])
    assert_array_equal(model.classes_, np.unique(names))
    assert_array_equal(model.bucket_table_[[1, 2, 4]], table)
    assert len(np.unique(model.bucket_table_, axis=0)) == 6
    assert model.score(X[test], names[test]) > 0.9
    # what was there before is another model, untouched by the growth
    assert fitted.model.table is table
    assert fitted.class_weights.size == 3
    assert_allclose(model.predict_proba(X).sum(axis=1), 1, rtol=1e-12)
    assert scores.shape == (600, 3)


@pytest.mark.parametrize("base", BASES)
def test_growing_trains_as_if_the_table_had_been_known(blobs, base):
    """The same weights as of a model that has had the grown table from the start.

    Buckets are all in use, so that a class without rows changes no weight.
    """
    X, y = blobs(240)
    X, old = abs(X), np.isin(y, [0, 2, 3, 5])
    sizes = {"n_repetitions": 3, "n_buckets": 2, "random_state": 0}
    model = MACHClassifier(base, **sizes, learning_rate=1.0)
    model.partial_fit(X[old], y[old], classes=[0, 2, 3, 5])
    grown = copy_of(model).partial_fit(X, y)
    known = clone(model).set_params(hashing=grown.bucket_table_)
    known.partial_fit(X[old], y[old], classes=range(6))
    assert_array_equal(
        known.decision_function(X)[:, [0, 2, 3, 5]], model.decision_function(X)
    )
    known.partial_fit(X, y)
    assert_array_equal(grown.decision_function(X), known.decision_function(X))
    weights = grown._fitted.class_weights
    assert_array_equal(weights, known._fitted.class_weights)


def test_blocks_without_new_labels_change_no_bit(blobs):
    X, y = blobs(300)
    model = MACHClassifier(**SIZES).partial_fit(X[:200], y[:200], classes=range(6))
    named, waits = copy_of(model), copy_of(model)
    model.partial_fit(X[200:], y[200:])
    assert_same_model(model, named.partial_fit(X[200:], y[200:], range(6)))
    # a label without a row waits outside: predictions stay
    assert_same_model(model, waits.partial_fit(X[200:], y[200:], range(-3, 9)))
    assert_array_equal(waits.classes_, range(6))
    assert_array_equal(waits.predict_proba(X), model.predict_proba(X))


def test_rows_that_wait_for_the_trial_keep_their_classes(blobs):
    """The first 1,000 rows are kept; their labels get other numbers."""
    X, y = blobs(1500, 12, 6)
    first, second = np.flatnonzero(y >= 3)[:300], np.arange(300, 1500)
    model = MACHClassifier(**SIZES).partial_fit(X[first], y[first], classes=[3, 4, 5])
    kept = model._fitted.memory.waiting
    model.partial_fit(X[y < 3][:100], y[y < 3][:100])
    labels = [model.classes_[t.classes] for _, t, _ in model._fitted.memory.waiting]
    assert_array_equal(labels[0], y[first])
    assert_array_equal(labels[1], y[y < 3][:100])
    assert_array_equal(kept[0][1].classes, y[first] - 3)
    # as of a model that has known its labels and their buckets all the time
    known = MACHClassifier(**SIZES).set_params(hashing=model.bucket_table_)
    known.partial_fit(X[first], y[first], classes=range(6))
    known.partial_fit(X[y < 3][:100], y[y < 3][:100])
    for each in (model, known):
        each.partial_fit(X[second], y[second])
        assert not each._fitted.memory.waiting
    assert model._fitted.memory.factor == known._fitted.memory.factor
    assert_array_equal(model.coef_, known.coef_)


@pytest.mark.parametrize("several", [False, True])
def test_new_classes_go_to_buckets_that_base_classifiers_know(blobs, several):
    X, y = blobs(300)
    X = abs(X)
    table = np.array([[0, 4, 1], [3, 4, 1], [3, 0, 1]])
    old = y < 3
    Y = np.eye(6, dtype=int)[y] if several else y
    for start in ("fit", "partial_fit"):
        model = MACHClassifier(MultinomialNB(), hashing=table, n_buckets=5)
        if several:
            getattr(model, start)(X[old], Y[old, :3])
        else:
            classes = {"classes": range(3)} if start == "partial_fit" else {}
            getattr(model, start)(X[old], y[old], **classes)
            few = y == 3
            with pytest.raises(ValueError, match="2 new classes .* for only 1 more"):
                model.partial_fit(X[y != 5], y[y != 5])
            grown = copy_of(model).partial_fit(X[few], y[few])
            assert_array_equal(grown.bucket_table_[3], [0, 0, 1])
            assert grown.score(X[few], y[few]) > 0.5
            continue
        model.partial_fit(X, Y)
        assert_array_equal(model.bucket_table_[:3], table)
        assert model.classes_.size == 6


def test_indicators_may_have_more_columns(blobs):
    X, y = blobs(600)
    Y = np.eye(6, dtype=int)[y] | np.eye(6, dtype=int)[(y + 1) % 6]
    for start in ("fit", "partial_fit"):
        model = MACHClassifier(**SIZES)
        getattr(model, start)(X[:200], Y[:200, :4])
        table, scores = model.bucket_table_, model.decision_function(X)
        assert scores.shape == (600, 4)
        for _ in range(3):
            model.partial_fit(X[:400], sp.csr_array(Y[:400]), classes=range(6))
        assert_array_equal(model.classes_, range(6))
        assert_array_equal(model.bucket_table_[:4], table)
        assert model.predict(X).shape == (600, 6)
        assert (model.predict(X[400:]) == Y[400:]).mean() > 0.9
        with pytest.raises(ValueError, match="y has 5 columns, but the model has 6"):
            model.partial_fit(X, Y[:, :5])


# What else a model can do -------------------------------------------------------------


@pytest.fixture
def grown(blobs):
    X, y = blobs(600)
    y = y * 10
    old = y < 30
    model = MACHClassifier(**SIZES, logit_adjustment=0.5).fit(X[old], y[old])
    return model.partial_fit(X, y), X, y


def test_fields_of_a_grown_model_agree(grown):
    model, X, y = grown
    fit = model._fitted
    seen = np.bincount(y // 10) + np.bincount(y[y < 30] // 10, minlength=6)
    assert_array_equal(fit.class_weights, seen)
    share = seen / seen.sum()
    assert_allclose(fit.model.offset, -0.5 * np.log(6 * share), rtol=1e-5)
    sizes = [np.bincount(c, minlength=3) for c in model.bucket_table_.T]
    expected = sum(n @ (n - 1) for n in sizes) / (4 * 6 * 5)
    assert_allclose(fit.model.chance, expected)


def test_a_grown_model_goes_on(grown, tmp_path):
    model, X, y = grown
    assert class_ranks(model, X, y).max() < 6
    assert top_k_score(model, X, y) > 0.9
    staged = [model.score(X, y), *model.staged_score(X, y)]
    assert_allclose(staged[-1], staged[0])
    before = neg_log_loss(model, X, y)
    assert neg_log_loss(copy_of(model).calibrate(X, y), X, y) > before
    small = model.compress(bits=8)
    assert_array_equal(small.classes_, model.classes_)
    assert (small.predict(X) == model.predict(X)).mean() > 0.95
    more = copy_of(model).set_params(warm_start=True, n_repetitions=6).fit(X, y)
    assert_array_equal(more.bucket_table_[:, :4], model.bucket_table_)
    assert_array_equal(more.coef_[:4], model.coef_)
    assert more.score(X, y) > 0.9


def test_mapped_models_grow_copies(blobs, tmp_path):
    X, y = blobs(300)
    old = y < 4
    model = MACHClassifier(**SIZES).fit(X[old], y[old])
    model.save(tmp_path / "model.safetensors")
    written = (tmp_path / "model.safetensors").read_bytes()
    mapped, other = (load(tmp_path / "model.safetensors") for _ in range(2))
    scores = other.decision_function(X)
    expected = copy_of(model).partial_fit(X, y)
    assert_same_model(mapped.partial_fit(X, y), expected)
    assert_same_model(copy_of(mapped).partial_fit(X, y), expected.partial_fit(X, y))
    assert_array_equal(other.decision_function(X), scores)
    assert (tmp_path / "model.safetensors").read_bytes() == written
    expected.save(tmp_path / "grown.safetensors")
    again = load(tmp_path / "grown.safetensors")
    assert_array_equal(again.predict_proba(X), expected.predict_proba(X))
    assert_array_equal(again.classes_, range(6))


class FailsLater(GaussianNB):
    """Fails where a row's first feature is huge."""

    def partial_fit(self, X, y, classes=None, sample_weight=None):
        if X[:, 0].max() > 1e6:
            raise RuntimeError("huge")
        return super().partial_fit(X, y, classes, sample_weight)


@pytest.mark.parametrize("base", [None, FailsLater()])
def test_a_call_that_fails_adds_no_label(blobs, base):
    X, y = blobs(120, sparse=False)
    model = MACHClassifier(base, **SIZES, alpha=1e-3)
    model.partial_fit(X[y < 4], y[y < 4], classes=range(4))
    twin, fit = copy_of(model), model._fitted
    if base is None:
        model.set_params(learning_rate=1e38)
    with pytest.raises((ValueError, RuntimeError), match=r"overflowed|huge"):
        model.partial_fit(X * 1e7, y)
    assert model._fitted is fit
    assert_array_equal(model.classes_, range(4))
    model.set_params(learning_rate="auto")
    scores = twin.partial_fit(X, y).decision_function(X)
    assert_array_equal(model.partial_fit(X, y).decision_function(X), scores)


# Types of labels ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "new", "expected"),
    [
        (["b", "d"], ["a longer one"], "<U12"),
        ([1, 5], [3.0], np.array([1]).dtype.str),
        (np.array([1, 5], np.int8), [300], np.array([1]).dtype.str),
        (np.array([1.0, 5.0]), [3], "<f8"),
        (["b", "d"], np.array(["c and more"], object), "<U10"),
        (np.array(["b", "d"], object), ["c"], "|O"),
    ],
)
def test_types_that_go_together(known, new, expected):
    X = np.eye(3)[: len(known) + 1]
    model = MACHClassifier(**SIZES).partial_fit(X[:-1], known, classes=known)
    model.partial_fit(X[-1:], new)
    assert model.classes_.dtype.str == expected
    assert_array_equal(model.classes_, sorted([*known, *new]))
    assert_array_equal(model.predict_topk(X, 1).dtype, model.classes_.dtype)


@pytest.mark.parametrize(
    ("known", "new"),
    [
        (["b", "d"], [1]),
        ([1, 5], ["a"]),
        ([True, False], [2]),
        ([2, 5], [True]),
        (np.array(["b", "d"], object), [1]),
        ([1, 5], np.array(["a"], object)),
        (np.array([0, 2**63 - 1]), np.array([2**63], np.uint64)),
    ],
)
def test_types_that_do_not(known, new):
    X = np.eye(3)
    model = MACHClassifier(**SIZES).partial_fit(X[:2], known, classes=known)
    before = model.classes_
    with pytest.raises(ValueError, match="cannot be (compared|sorted)"):
        model.partial_fit(X[2:], new)
    assert model.classes_ is before


def test_messages_about_labels(blobs):
    X, y = blobs(60)
    model = MACHClassifier(**SIZES).partial_fit(X[y < 4], y[y < 4], classes=range(4))
    with pytest.raises(
        ValueError, match=r"lacks labels that the model knows: \[2, 3\]"
    ):
        model.partial_fit(X, y, classes=[0, 1, 4, 5])
    with pytest.raises(ValueError, match=r"y holds labels .* not in classes: \[5\]"):
        model.partial_fit(X, y, classes=range(5))
    with pytest.raises(ValueError, match=r"model knows: \[0, 1, 2, 3\]"):
        model.partial_fit(X, y, classes=list("abcdef"))
    assert_array_equal(model.classes_, range(4))
