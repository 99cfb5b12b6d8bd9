"""`fit` from blocks of rows, held to `fit` of all rows and to the reference."""

import warnings

import numpy as np
import pytest
import reference
import scipy.sparse as sp
from learners import TOLERANCE, learner, order_seed, problem
from numpy.testing import assert_allclose, assert_array_equal
from several import planted
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import normalize
from sklearn.tree import DecisionTreeClassifier

from sklearn_mach import MACHClassifier, _spool, _steps, _streams, merge
from sklearn_mach.datasets import make_many_classes, read_svmlight


class Blocks:
    """A re-iterable source of blocks of so many rows."""

    def __init__(self, *arrays, n=7):
        self.arrays, self.n = arrays, n

    def __iter__(self):
        for start in range(0, self.arrays[0].shape[0], self.n):
            yield tuple(array[start : start + self.n] for array in self.arrays)


@pytest.fixture
def small_blocks(monkeypatch):
    """Each block of the source is a chunk, and read by itself."""
    monkeypatch.setattr(_spool, "_BLOCK_BYTES", 1)


def orders(n_epochs, n_rows, size, weight=None):
    """The rows in the order of each epoch: chunks at random, and rows within them."""
    seed, found = order_seed(), []
    chunks = np.split(np.arange(n_rows), range(size, n_rows, size))
    for epoch in range(n_epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(chunks))
        parts = []
        for number, chunk in enumerate(order):
            rows = chunks[chunk]
            if weight is not None:
                rows = reference.visited(rows, weight)
            rng = np.random.default_rng([seed, epoch, number])
            parts.append(rng.permutation(rows))
        found.append(np.concatenate(parts))
    return found


@pytest.mark.parametrize("n_jobs", [1, 3])
@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("alpha", [0, 0.02])
def test_steps_are_those_of_the_reference(sparse, alpha, n_jobs, small_blocks):
    X, y, weight, table = problem(n=30)
    model = learner(table, max_iter=4, batch_size=1, alpha=alpha, n_jobs=n_jobs)
    rows = sp.csr_matrix(X) if sparse else X
    model.fit(Blocks(rows, y, weight, n=6))
    weight /= weight.mean()
    W, b, n_iter = reference.sgd_fit(
        X,
        y,
        table,
        3,
        orders(4, 30, 6),
        0.3 * weight,
        weight,
        bias=np.mean(
            [
                reference.mean_length(X[i : i + 6], weight[i : i + 6]) * s
                for i, s in shares(weight, 6)
            ]
        ),
        penalty=0.3 * alpha,
    )
    assert model.n_iter_ == 4
    assert_allclose(model.coef_, W, **TOLERANCE)
    assert_allclose(model.intercept_, b, **TOLERANCE)


def shares(weight, size):
    """The first row of each block, and its weight for a mean over blocks."""
    n = weight.size // size
    return [
        (i, n * weight[i : i + size].sum() / weight.sum())
        for i in range(0, weight.size, size)
    ]


@pytest.mark.parametrize("weighted", [False, True])
def test_automatic_steps_are_those_of_all_rows(weighted, small_blocks):
    X, y, _, table = problem(n=32)
    X = normalize(X) + 1e-3  # none so long that another block would limit it
    weight = np.linspace(0.6, 1.4, 32) if weighted else np.ones(32)  # a visit each
    model = learner(table, max_iter=5, learning_rate="auto")
    model.fit(Blocks(sp.csr_matrix(X), y, weight, n=8))
    share = weight / weight.mean()
    step, given = reference.auto_steps(X, share)
    found = orders(5, 32, 8, share)
    W, b, _ = reference.sgd_fit(X, y, table, 3, found, step, **given)
    assert_allclose(model.coef_, W, **TOLERANCE)
    assert_allclose(model.intercept_, b, **TOLERANCE)


def many(n=16_000, **options):
    options = dict(n_nonzeros=12, signal=0.4, random_state=0) | options
    return make_many_classes(n, 2000, 300, **options)


PARAMETERS = dict(n_repetitions=8, n_buckets=32, random_state=0)


@pytest.fixture(scope="module")
def fitted():
    """Rows, and the model of a fit of all of them."""
    X, y = many()
    return X, y, MACHClassifier(**PARAMETERS).fit(X[:14_000], y[:14_000])


@pytest.mark.parametrize("order", ["random", "sorted"])
@pytest.mark.parametrize("sixteen_bits", [True, False])
def test_a_model_is_as_good_as_that_of_all_rows(
    fitted, order, sixteen_bits, monkeypatch
):
    X, y, whole = fitted
    if sixteen_bits:
        monkeypatch.setattr(_steps, "_CACHED", 0)
    monkeypatch.setattr(_spool, "_CHUNK_BYTES", 1 << 12)
    monkeypatch.setattr(_spool, "_BLOCK_BYTES", 1 << 17)
    rows = np.arange(14_000)
    if order == "sorted":  # which no order of blocks could mend by itself
        rows = np.argsort(y[rows], kind="stable")
    model = MACHClassifier(**PARAMETERS).fit(Blocks(X[rows], y[rows], n=1000))
    # 2,000 test rows: one standard error of the difference is less than a point.
    assert (
        abs(model.score(X[14_000:], y[14_000:]) - whole.score(X[14_000:], y[14_000:]))
        < 0.02
    )
    assert_array_equal(model.classes_, whole.classes_)
    loss = -np.log(model.predict_proba(X[14_000:])[np.arange(2000), y[14_000:]]).mean()
    other = -np.log(whole.predict_proba(X[14_000:])[np.arange(2000), y[14_000:]]).mean()
    assert abs(loss - other) < 0.05


def test_the_table_is_that_of_all_rows_bit_for_bit(fitted):
    X, y, whole = fitted
    model = MACHClassifier(**PARAMETERS, max_iter=1, learning_rate=1.0)
    model.fit(Blocks(X[:14_000], y[:14_000], n=3000))
    assert model.hashing == "clustered"
    assert_array_equal(model.bucket_table_, whole.bucket_table_)
    assert_array_equal(model._fitted.class_weights, whole._fitted.class_weights)


@pytest.mark.parametrize("sparse", [True, False])
def test_results_do_not_depend_on_threads_and_blocks_of_the_source(sparse):
    X, y = many(3000) if sparse else many(3000, dense=True)
    kw = dict(n_repetitions=6, n_buckets=128, random_state=0, max_iter=2)

    def fit(n_jobs, n):
        return MACHClassifier(**kw, n_jobs=n_jobs).fit(Blocks(X, y, n=n))

    one = fit(1, 500)
    for other in (fit(3, 500), fit(2, 500)):
        assert_array_equal(one.coef_, other.coef_)
        assert_array_equal(one.intercept_, other.intercept_)
    assert_array_equal(fit(1, 250).bucket_table_, one.bucket_table_)


def test_dense_rows_learn_as_much_as_in_memory():
    X, y = make_many_classes(6000, 40, 200, dense=True, random_state=0)
    kw = dict(random_state=0)
    whole = MACHClassifier(**kw).fit(X[:5000], y[:5000])
    model = MACHClassifier(**kw).fit(Blocks(X[:5000], y[:5000], n=700))
    assert model.n_buckets_ == whole.n_buckets_
    scores = [each.score(X[5000:], y[5000:]) for each in (model, whole)]
    assert scores[0] > scores[1] - 0.02


@pytest.mark.parametrize("sparse", [True, False])
def test_several_labels_a_row(sparse):
    X, Y, _ = planted(12_000, d=20, K=30, sparse=True)
    kw = dict(n_repetitions=4, n_buckets=16, random_state=0, max_iter=5)
    whole = MACHClassifier(**kw).fit(X[:11_000], Y[:11_000])
    labels = sp.csr_array(Y) if sparse else Y
    model = MACHClassifier(**kw).fit(Blocks(X[:11_000], labels[:11_000], n=2000))
    assert model.multilabel_
    assert sp.issparse(model.predict(X[:5])) == sparse
    losses = [
        reference.binary_log_loss(Y[11_000:], each.predict_proba(X[11_000:]))
        for each in (model, whole)
    ]
    assert_allclose(*losses, rtol=0.02)


def test_rows_set_aside_are_trained_on_by_nobody_and_leave_each_class_a_row():
    X, y = many(12_000)
    counts = np.bincount(y)
    targets = _streams.Targets.of(y.astype(np.int32))
    sample = _streams.Sample(X, targets, np.ones(len(y)), np.arange(len(y)))
    train, held = _streams.set_aside(sample, counts, 5000, 0)
    assert np.intersect1d(train, held).size == 0
    assert_array_equal(np.sort(np.append(train, held)), np.arange(len(y)))
    left = np.bincount(y[train], minlength=counts.size)
    assert (left[counts > 0] > 0).all()
    assert held.size == 5000
    few = _streams.set_aside(sample, counts, 10, 0)[1]
    assert_array_equal(few, held[:10])


def test_rows_set_aside_take_no_step(small_blocks, monkeypatch):
    """All rows of a class but one are set aside: only the one is learned."""
    X, y, _, table = problem(n=30)
    chosen = []
    whole = _streams.set_aside

    def all_but_one(sample, counts, n_held, seed):
        train, held = whole(sample, counts, 24, seed)
        chosen.append(np.sort(sample.numbers[train]))
        return train, held

    monkeypatch.setattr("sklearn_mach._softmax.set_aside", all_but_one)
    model = learner(table, max_iter=1).fit(Blocks(sp.csr_matrix(X), y, n=6))
    (kept,) = chosen
    untouched = (X[kept] == 0).all(axis=0)
    assert (model.coef_[:, :, untouched] == 0).all()
    assert (model.coef_[:, :, ~untouched] != 0).any()
    X[np.setdiff1d(np.arange(30), kept)] *= -1  # of the same lengths
    other = learner(table, max_iter=1).fit(Blocks(sp.csr_matrix(X), y, n=6))
    assert_array_equal(other.coef_, model.coef_)


@pytest.mark.parametrize("sparse", [True, False])
def test_blocks_of_which_all_rows_are_set_aside(sparse, small_blocks, monkeypatch):
    monkeypatch.setattr(_spool, "_CHUNK_BYTES", 1)  # a row
    X, y, _, table = problem(n=40)
    kw = dict(max_iter=3, early_stopping=True, validation_fraction=0.25)
    rows = sp.csr_matrix(X) if sparse else X
    model = learner(table, **kw).fit(Blocks(rows, y, n=10))
    assert np.isfinite(model.coef_).all() and model.coef_.any()


def test_early_stopping_watches_rows_set_aside():
    X, y = many(4000)
    kw = PARAMETERS | dict(early_stopping=True, max_iter=60, n_iter_no_change=2)
    model = MACHClassifier(**kw, tol=0.01).fit(Blocks(X, y, n=900))
    assert 2 < model.n_iter_ < 60
    alone = [(X[:5], np.arange(5))]
    with pytest.raises(ValueError, match="early_stopping=True sets rows aside"):
        MACHClassifier(**kw).fit(alone)


def test_shares_of_a_fit_are_merged_to_the_whole():
    X, y = many(12_000)
    kw = PARAMETERS | dict(max_iter=2)
    whole = MACHClassifier(**kw).fit(Blocks(X, y, n=2000))
    parts = [
        MACHClassifier(**kw, part=(i, 2)).fit(Blocks(X, y, n=2000)) for i in (0, 1)
    ]
    merged = merge(parts)
    assert_array_equal(merged.coef_, whole.coef_)
    assert_array_equal(merged.predict_proba(X[:20]), whole.predict_proba(X[:20]))


def test_it_goes_on_with_warm_start_and_partial_fit(fitted):
    X, y, _ = fitted
    kw = PARAMETERS | dict(max_iter=2)
    source = Blocks(X[:14_000], y[:14_000], n=4000)
    whole = MACHClassifier(**kw).fit(source)
    model = MACHClassifier(**(kw | dict(n_repetitions=4)), warm_start=True).fit(source)
    first = model.coef_.copy()
    model.set_params(n_repetitions=8).fit(source)
    assert_array_equal(model.coef_[:4], first)
    assert_array_equal(model.bucket_table_, whole.bucket_table_)
    assert model._fitted.memory.seen.n_rows == 14_000
    before = model.score(X[14_000:], y[14_000:])
    model.partial_fit(X[:2000], y[:2000])
    assert model.score(X[14_000:], y[14_000:]) > before - 0.05
    with pytest.raises(ValueError, match="must hold the classes of the previous"):
        model.set_params(n_repetitions=9).fit(Blocks(X[:100], y[:100]))


def test_it_prints_epochs_and_compresses(capsys):
    X, y = many(11_000)
    model = MACHClassifier(**PARAMETERS, verbose=1, max_iter=2, max_bytes=100_000)
    model.fit(Blocks(X, y, n=2000))
    assert capsys.readouterr().out.count("epoch") == 2
    assert model.model_bytes_ < 100_000


def test_a_reader_is_a_source(tmp_path):
    lines = ["1 1:1 3:2", "2 2:1", "1 1:3 3:1", "3 3:1 2:2"] * 20
    (tmp_path / "rows").write_text("\n".join(lines))
    source = read_svmlight(tmp_path / "rows", n_features=3, block_bytes=100)
    model = MACHClassifier(n_repetitions=2, n_buckets=3, random_state=0).fit(source)
    assert_array_equal(model.classes_, [1, 2, 3])
    assert model.score(*next(iter(source))) > 0.9


def test_a_very_long_row_is_warned_of_by_its_number():
    X, y = many(2000)
    X = X.copy()
    X.data[X.indptr[1500] : X.indptr[1501]] *= 1e4
    with pytest.warns(ConvergenceWarning, match="row 1500 is about"):
        MACHClassifier(**PARAMETERS, max_iter=1).fit(Blocks(X, y, n=500))


def test_one_warning_of_long_rows_is_enough(small_blocks):
    X, y = many(2000)
    X = X.copy()
    for row in (100, 700, 1500):  # each in a block of its own
        X.data[X.indptr[row] : X.indptr[row + 1]] *= 1e4
    with pytest.warns(ConvergenceWarning) as caught:
        MACHClassifier(**PARAMETERS, max_iter=1).fit(Blocks(X, y, n=500))
    assert [str(w.message).count("row 100 is") for w in caught] == [1]


def test_rows_of_weight_zero_do_not_count():
    """As many buckets as the labels of the rows in use ask for."""
    X, Y, _ = planted(400, d=20, K=300, shift=0)
    weight = np.ones(400)
    Y[::2], weight[::2] = 0, 0
    kw = dict(random_state=0, n_repetitions=2, max_iter=1)
    whole = MACHClassifier(**kw).fit(X, Y, weight)
    model = MACHClassifier(**kw).fit([(X, Y, weight)])
    assert_array_equal(model.bucket_table_, whole.bucket_table_)


def test_labels_without_rows_are_labels():
    X, Y, _ = planted(400, d=20, K=30)
    kw = dict(random_state=0, n_repetitions=2, n_buckets=8, max_iter=1)
    for absent in (slice(0, 4), slice(20, 30), slice(0, 30)):
        some = Y.copy()
        some[:, absent] = 0
        model = MACHClassifier(**kw).fit([(X[:200], some[:200]), (X[200:], some[200:])])
        assert_array_equal(model.classes_, np.arange(30))
        assert_array_equal(model._fitted.class_weights, some.sum(axis=0))


def test_what_does_not_train_on_blocks_says_so():
    blocks = [(np.eye(6), np.arange(6))]
    with pytest.raises(ValueError, match="device='cuda' (cannot be used|trains on)"):
        MACHClassifier(device="cuda").fit(blocks)
    with pytest.raises(ValueError, match="needs X and y, all rows at once"):
        MACHClassifier(DecisionTreeClassifier()).fit(blocks)


def test_values_too_large_for_float32_are_refused():
    X = np.eye(6) * 1e60
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        with pytest.raises(ValueError, match="leave no room in float32"):
            MACHClassifier().fit([(X, np.arange(6))])
