"""The trial of the step on sparse rows, and on dense ones without a metric."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import minimize
from scipy.special import log_softmax

from sklearn_mach import MACHClassifier, _steps, _trial
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
