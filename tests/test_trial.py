"""The trial of the step on sparse rows, and on dense ones without a metric."""

import numpy as np
import pytest
import scipy.sparse as sp
from learners import needs_compilation, pareto
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from scipy.special import log_softmax

from sklearn_mach import MACHClassifier, _steps, _training, _trial
from sklearn_mach._targets import Targets
from sklearn_mach.datasets import make_many_classes


@pytest.fixture
def trial():
    """A function that gives the factor for rows and labels, and its settings."""

    def factor(X, y, n_buckets=8, n_columns=256, **options):
        options = MACHClassifier(max_iter=1, **options).get_params(deep=False)
        targets = Targets.of(y.astype(np.int32))
        settings, _ = _steps.make_settings(X, targets, None, options, 0)
        column = np.random.default_rng(3).integers(0, n_buckets, y.max() + 1)
        column = column.astype(np.uint8)
        return _trial.probe_step(X, targets, column, n_buckets, settings, n_columns)

    return factor


@pytest.fixture(scope="module")
def small_rows():
    X, y = make_many_classes(2_000, 600, 60, n_nonzeros=8, random_state=0)
    return X, y


def test_trial_takes_smaller_steps_where_labels_are_noise(trial):
    X, y = make_many_classes(4_000, 600, 60, n_nonzeros=8, random_state=0)
    shuffled = np.random.default_rng(0).permutation(y)
    assert 0.25 <= trial(X, shuffled) < trial(X, y) <= 32


@pytest.mark.parametrize("sparse", [False, True])
def test_trial_is_not_judged_by_the_rows_it_trains_on(trial, monkeypatch, sparse):
    n = 1_100
    X = sp.eye_array(n, format="csr")  # every row has a column of its own
    train, logits = _trial.train, _trial.logits
    trained, judged = set(), set()

    def spy_on_training(X, targets, table, columns, settings, *args):
        trained.update(X[settings.train].nonzero()[1].tolist())
        return train(X, targets, table, columns, settings, *args)

    def spy_on_judging(X, *args):
        judged.update(X.nonzero()[1].tolist())
        return logits(X, *args)

    monkeypatch.setattr(_trial, "train", spy_on_training)
    monkeypatch.setattr(_trial, "logits", spy_on_judging)
    assert trial(X if sparse else X.toarray(), np.arange(n) % 8) is not None
    assert len(trained) == 880 and len(judged) == 220
    assert not trained & judged


@pytest.mark.parametrize("winner", [-1, 1, 3])
def test_trial_compares_losses_at_the_best_temperature(
    trial, small_rows, monkeypatch, winner
):
    # In place of trained weights: the winner ranks best but is far too confident.
    X, y = small_rows
    rates, train = [], _trial.train
    rng = np.random.default_rng(0)
    noise = rng.gumbel(size=(400, 8))
    raw, scaled = {}, {}

    def note_rates(X, targets, table, columns, settings, *args):
        rates.append(np.log2(settings.rate).astype(int))
        note_rates.codes = targets.classes, settings.held, table
        return train(X, targets, table, columns, settings, *args)

    def made_up(X, W, b):
        y, held, table = note_rates.codes
        codes = table[y[held], 0].astype(int)
        own = np.eye(8)[codes]
        out = []
        for power in rates[-1]:
            quality = 2 - 0.3 * abs(power - winner)
            confidence = 12.0 if power == winner else 1.0
            z = log_softmax(confidence * (quality * own + noise), axis=1)
            out.append(z)
            best = minimize(
                lambda s, z=z: loss_at(s, z, codes), [0.0], method="Nelder-Mead"
            )
            raw[power], scaled[power] = loss_at([0.0], z, codes), best.fun
        return np.concatenate(out, axis=1).astype(np.float32)

    monkeypatch.setattr(_trial, "train", note_rates)
    monkeypatch.setattr(_trial, "logits", made_up)
    found = trial(X, y)
    assert min(scaled, key=scaled.get) == winner != min(raw, key=raw.get)
    assert abs(np.log2(found) - winner) <= 0.5
    assert np.concatenate(rates).size == len(scaled)  # none is trained twice


def loss_at(log_scale, z, codes):
    log_proba = log_softmax(np.exp(log_scale[0]) * z, axis=1)
    return -log_proba[np.arange(codes.size), codes].mean()


def test_trial_does_not_depend_on_how_many_factors_are_trained_together(
    trial, small_rows, monkeypatch
):
    together = trial(*small_rows)
    monkeypatch.setattr(_trial, "probe_bytes", lambda *args: 4 * 600 * 8)
    assert trial(*small_rows) == together


def test_trial_does_not_depend_on_features_without_values(trial, small_rows):
    X, y = small_rows
    wide = sp.csr_array((X.data, X.indices * 7, X.indptr), (X.shape[0], 4_200))
    assert trial(wide, y) == trial(X, y)


@pytest.mark.parametrize("sparse", [False, True])
def test_trial_keeps_to_its_memory(trial, monkeypatch, sparse):
    held = []

    class Columns(_trial.Columns):
        def __init__(self, W, *args, **kwargs):
            held.append(W.nbytes)
            super().__init__(W, *args, **kwargs)

    monkeypatch.setattr(_trial, "Columns", Columns)
    monkeypatch.setattr(_trial, "_PROBE_BYTES", 1 << 14)
    rng, n_rows = np.random.default_rng(0), 2_500 if sparse else 1_000
    for n_features in (50, 700, 2_000) if sparse else (100,):
        X = sp.random_array((n_rows, n_features), density=0.02, rng=rng, format="csr")
        for n_buckets, n_columns in ((2, 4), (64, 64), (32, 512)):
            held.clear()
            rows, y = X if sparse else X.toarray(), np.arange(n_rows) % 300
            factor = trial(rows, y, n_buckets, n_columns, batch_size=256)
            assert 0.25 <= factor <= 32
            limit = _trial.probe_bytes(n_features, n_columns)
            assert limit == max(4 * n_features * n_columns // 10, 1 << 14)
            # of one factor and two buckets there is no half
            assert 0 < max(held) <= max(limit, 8 * n_features)


def test_fewer_than_1000_rows_have_no_trial(trial, small_rows):
    X, y = small_rows
    assert trial(X[:1_000], y[:1_000]) is not None
    assert trial(X[:999], y[:999]) is None
    model = MACHClassifier(max_iter=1, random_state=0).fit(X[:999], y[:999])
    assert model._fitted.memory.factor is None


def test_rows_without_any_value_pass_the_trial():
    y = np.arange(1_200) % 4
    model = MACHClassifier(max_iter=1, random_state=0).fit(sp.csr_array((1_200, 5)), y)
    assert np.isfinite(model.coef_).all()


def test_blocks_have_one_trial_when_1000_rows_are_there(small_rows, monkeypatch):
    X, y = small_rows
    tried, probe = [], _trial.probe_step

    def spy(X, *args):
        tried.append((X.shape[0], probe(X, *args)))
        return tried[-1][1]

    monkeypatch.setattr(_trial, "probe_step", spy)
    model = MACHClassifier(n_repetitions=2, n_buckets=8, random_state=0)
    for start in range(0, 2_000, 400):
        rows = slice(start, start + 400)
        model.partial_fit(X[rows], y[rows], classes=np.arange(60))
    assert [n for n, _ in tried] == [400, 800, 1_200]
    assert tried[0][1] is tried[1][1] is None
    assert model._fitted.memory.factor == tried[2][1] > 0
    assert not model._fitted.memory.waiting


# Several labels a row -----------------------------------------------------------------


def several_rows(n=2_500, K=60, dense=False):
    """Rows of one or two labels and of none: sums of rows of one label each."""
    given = dict(dense=True) if dense else dict(n_nonzeros=8, signal=0.5)
    X, y = make_many_classes(2 * n, 30 if dense else 600, K, random_state=0, **given)
    X, Y = X[:n] + X[n:], np.zeros((n, K), bool)
    Y[np.arange(n), y[:n]] = Y[np.arange(n), y[n:]] = True
    Y[::50] = False
    return X, Targets.of_indicator(sp.csr_array(Y))


def try_several(X, targets, n_buckets=8, n_jobs=None, **options):
    """The answer of the trial."""
    options = MACHClassifier(**options).get_params(deep=False)
    weight = np.random.default_rng(0).uniform(0.3, 1.5, X.shape[0])
    settings, _ = _steps.make_settings(X, targets, weight, options, 0)
    K = targets.classes.max() + 1
    column = np.random.default_rng(3).integers(0, n_buckets, K).astype(np.uint8)
    return _trial.probe(X, targets, column, n_buckets, settings, 256, n_jobs)


@pytest.fixture
def seen(monkeypatch):
    """What the trial trains with, in all its calls."""
    calls, train = [], _trial.train

    def spy(X, targets, table, columns, settings, *args):
        calls.append((X, targets, table[:, :1], settings, columns.W.shape))
        return train(X, targets, table, columns, settings, *args)

    monkeypatch.setattr(_trial, "train", spy)
    return calls


def held_loss_of(X, targets, table, settings, n_buckets):
    """Log loss of the rows set aside after training, with the best shift and scale."""
    W = np.zeros((X.shape[1], n_buckets), np.float32)
    weight = settings.row_weight(np.arange(X.shape[0])).astype(np.float64)
    of_train = np.zeros_like(weight)
    of_train[settings.train] = weight[settings.train]
    b = targets.log_odds(table, n_buckets, of_train)
    columns = _training.Columns(W, b, 0, n_buckets, True)
    _training.train(X, targets, table, columns, settings)
    z = (X[settings.held] @ W + b).astype(np.float64)
    on = np.zeros(z.shape, bool)
    for i, row in enumerate(settings.held):
        start, stop = targets.starts[row : row + 2]
        on[i, table[targets.classes[start:stop], 0]] = True
    weight = weight[settings.held] / weight[settings.held].sum()

    def loss(x):
        return weight @ (np.logaddexp(0, x[0] + x[1] * z) - on * (x[0] + x[1] * z))

    start = [0.0, 1.0]
    return minimize(lambda x: loss(x).sum(), start, method="Nelder-Mead").fun


@needs_compilation
@pytest.mark.parametrize("sparse", [False, True])
def test_trial_of_several_labels_finds_what_trying_all_factors_finds(seen, sparse):
    X, targets = several_rows()
    X = X if sparse else X.toarray()
    given = {} if sparse else dict(alpha=1e-6)  # dense rows without a metric
    factor, n_epochs = try_several(X, targets, **given)
    assert n_epochs is None
    X, targets, table, settings, _ = seen[0]
    assert settings.loss.link == "sigmoid"
    assert settings.held.size == 500 and settings.train.size == 2_000
    assert not np.isin(settings.held, settings.train).any()
    settings = settings._replace(rate=None)
    losses = {
        power: held_loss_of(X, targets, table, settings.scaled(2.0**power), 8)
        for power in range(-2, 6)
    }
    best = min(losses, key=losses.get)
    assert abs(np.log2(factor) - best) <= 1, (factor, losses)
    assert max(losses.values()) > 1.02 * losses[best]  # and the choice matters


@needs_compilation
def test_dense_trial_of_several_labels_is_nearly_as_good_as_any(seen):
    X, targets = several_rows(dense=True)
    factor, n_epochs = try_several(X, targets)
    X, targets, table, settings, _ = seen[0]
    assert settings.metric is not None and settings.loss.link == "sigmoid"
    assert settings.held.size == 500 and settings.train.size == 2_000
    n_buckets = seen[0][4][1]
    settings = settings.scaled(8**-1.0)  # the first factor of all was 8

    def loss(factor, n_epochs):
        now = settings.scaled(factor).with_epochs(n_epochs)
        return held_loss_of(X, targets, table, now, n_buckets)

    losses = {
        (power, n): loss(2.0**power, n) for power in range(-2, 6) for n in (1, 4, 16)
    }
    assert 0.25 <= factor <= 32 and n_epochs in (1, 2, 4, 8, 16, 32, 64)
    assert loss(factor, n_epochs) < 1.01 * min(losses.values()), losses
    assert max(losses.values()) > 1.05 * min(losses.values())


@pytest.mark.usefixtures("two_blas_threads")
@needs_compilation
@pytest.mark.parametrize("kind", ["sparse", "dense", "metric"])
def test_trial_of_several_labels_does_not_depend_on_the_threads(kind):
    X, targets = several_rows(1_500, dense=kind == "metric")
    X = X.toarray() if kind == "dense" else X
    given = dict(alpha=1e-6) if kind == "dense" else {}
    found = [try_several(X, targets, n_jobs=n_jobs, **given) for n_jobs in (1, 2, 3)]
    assert found[0] == found[1] == found[2]
    assert 0.25 <= found[0][0] <= 32


def test_trial_of_several_labels_takes_all_rows_and_some_buckets(seen):
    X, targets = several_rows(1_200, K=400)
    try_several(X, targets, n_buckets=200, max_iter=1)
    _, some, table, settings, (_, n_columns) = seen[0]
    assert settings.train.size + settings.held.size == 1_200
    assert n_columns % 64 == 0
    assert some.classes.size < 0.6 * targets.classes.size  # 64 of 200 buckets
    column = np.random.default_rng(3).integers(0, 200, 400)
    chosen = np.unique(some.classes)
    assert np.unique(column[chosen]).size <= 64
    # Their classes are all there, with buckets of their own.
    is_chosen = np.isin(column, column[chosen])
    assert some.classes.size == is_chosen[targets.classes].sum()
    pairs = np.unique(np.stack([column[chosen], table[chosen, 0]]), axis=1)
    assert pairs.shape[1] == np.unique(column[chosen]).size
    assert np.unique(pairs[1]).size == pairs.shape[1]


def test_first_intercepts_are_log_odds_of_the_rows_that_are_trained_on():
    X, targets = several_rows(200)
    options = MACHClassifier(early_stopping=True).get_params(deep=False)
    weight = pareto(200)
    settings, _ = _steps.make_settings(X, targets, weight, options, 0)
    assert settings.held.size == 20 and settings.visits.max() > 1
    weight[settings.held] = 0
    table = np.random.default_rng(1).integers(0, 5, (60, 3)).astype(np.uint8)
    found = _trial.first_intercepts(targets, table, 5, settings)
    expected = targets.log_odds(table, 5, weight)
    assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    one = Targets.of(np.zeros(200, np.int32))
    assert not _trial.first_intercepts(one, table, 5, settings).any()


@pytest.mark.parametrize("sparse", [False, True])
def test_blocks_of_several_labels_wait_for_a_trial(monkeypatch, sparse):
    X, targets = several_rows(1_600)
    X = X if sparse else X.toarray()
    Y = np.zeros((1_600, 60), int)
    Y[targets.rows(), targets.classes] = 1
    tried, probe = [], _trial.probe

    def spy(X, targets, *args):
        tried.append((X, targets, probe(X, targets, *args)[0]))
        return tried[-1][2], None

    monkeypatch.setattr("sklearn_mach._softmax.probe", spy)
    model = MACHClassifier(n_repetitions=2, n_buckets=8, random_state=0)
    for start in range(0, 1_600, 400):
        block = X[start : start + 400].copy(), Y[start : start + 400].copy()
        model.partial_fit(*block)
        (block[0].data if sparse else block[0])[:] = 0  # filled anew by the caller
        block[1][:] = 0
    assert [rows.shape[0] for rows, *_ in tried] == [400, 800, 1_200]
    assert tried[0][2] is tried[1][2] is None
    rows, of_rows, factor = tried[2]
    difference = rows - X[:1_200].astype(np.float32)
    assert abs(difference).max() == 0
    expected = targets.take(slice(1_200))
    assert of_rows.several
    assert_array_equal(of_rows.starts, expected.starts)
    assert_array_equal(of_rows.classes, expected.classes)
    expected = factor if model._fitted.memory.seen.metric else min(factor, 4)
    assert model._fitted.memory.factor == expected
    assert not model._fitted.memory.waiting
