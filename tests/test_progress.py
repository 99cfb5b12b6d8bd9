"""What scikit-learn's callbacks are told of a fit, and how they stop it."""

import joblib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_mach import MACHClassifier

callback = pytest.importorskip("sklearn.callback", reason="scikit-learn before 1.9")


class Recorder:
    """Notes every call, as (hook, path of task names and numbers).

    Parameters
    ----------
    react : callable or None
        Called with the path at the end of each task; what it returns is returned.
    """

    def __init__(self, react=None):
        self.react = react
        self.calls = []
        self.models = {}

    def setup(self, estimator, context):
        self.calls.append(("setup", path(context)))

    def teardown(self, estimator, context):
        self.calls.append(("teardown", path(context)))

    def on_fit_task_begin(self, estimator, context):
        self.calls.append(("begin", path(context)))

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        self.calls.append(("end", path(context)))
        if fitted_estimator is not None:
            self.models[path(context)] = fitted_estimator
        return self.react is not None and self.react(path(context))

    def paths(self, hook, name):
        """Numbers of the tasks called `name` for which the hook was called."""
        return [
            tuple(number for _, number in path)
            for called, path in self.calls
            if called == hook and path[-1][0] == name
        ]


class PropagatedRecorder(Recorder):
    max_propagation_depth = None


def path(context):
    parent = () if context.parent is None else path(context.parent)
    return (*parent, (context.task_name, context.task_id))


FIT = (("fit", 0),)


def repetitions(first):
    return (*FIT, ("repetitions", first))


def epochs(first, n_epochs):
    return [(*repetitions(first), ("epoch", e)) for e in range(n_epochs)]


def block_calls(first, n_epochs):
    """The calls in order for a block of repetitions."""
    calls = [("begin", repetitions(first))]
    for epoch in epochs(first, n_epochs):
        calls += [("begin", epoch), ("end", epoch)]
    return [*calls, ("end", repetitions(first))]


def model(base=None, **parameters):
    defaults = dict(n_repetitions=4, n_buckets=3, max_iter=3, tol=None, random_state=0)
    return MACHClassifier(base, **(defaults | parameters))


def assert_nothing_left(fitted):
    left = {name for name in vars(fitted) if "callback" in name}
    assert left <= {"_skl_callbacks"}


# Order and number of the calls ------------------------------------------------------


@pytest.mark.parametrize("sparse", [False, True])
def test_calls_of_one_block_are_in_order(blobs, sparse):
    X, y = blobs(60, sparse=sparse)
    recorder = Recorder()
    fitted = model().set_callbacks(recorder).fit(X, y)
    assert recorder.calls == [
        ("setup", FIT),
        ("begin", FIT),
        *block_calls(0, 3),
        ("end", FIT),
        ("teardown", FIT),
    ]
    assert_nothing_left(fitted)
    silent = model().fit(X, y)
    assert_array_equal(fitted.coef_, silent.coef_)
    assert vars(fitted).keys() - {"_skl_callbacks"} == vars(silent).keys()


@pytest.mark.parametrize(
    ("sparse", "n_jobs", "first"), [(True, 2, [0, 17]), (False, 1, [0, 17])]
)
def test_each_block_has_its_own_epochs(blobs, sparse, n_jobs, first):
    # more than 512 columns of weights: two blocks on a dense X; else one a thread
    X, y = blobs(60, n_classes=20, sparse=sparse)
    recorder = Recorder()
    sizes = dict(n_repetitions=34, n_buckets=16, n_jobs=n_jobs)
    model(**sizes).set_callbacks(recorder).fit(X, y)
    assert recorder.calls[:2] == [("setup", FIT), ("begin", FIT)]
    assert recorder.calls[-2:] == [("end", FIT), ("teardown", FIT)]
    assert [r for _, r in sorted(recorder.paths("begin", "repetitions"))] == first
    for r in first:
        calls = [call for call in recorder.calls if call[1][:2] == repetitions(r)]
        assert calls == block_calls(r, 3)


def test_epochs_that_are_not_needed_are_not_told(blobs):
    X, y = blobs(60)
    recorder = Recorder()
    fitted = model(max_iter=50, tol=0.05, n_iter_no_change=2)
    fitted.set_callbacks(recorder).fit(X, y)
    assert fitted.n_iter_ < 50
    assert len(recorder.paths("begin", "epoch")) == fitted.n_iter_
    assert len(recorder.paths("end", "epoch")) == fitted.n_iter_


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("n_buckets", [2, 16])
def test_every_base_classifier_is_a_task(blobs, n_jobs, n_buckets):
    X, y = blobs(60, sparse=False)
    recorder = (
        PropagatedRecorder()
    )  # naive Bayes takes no callbacks: nothing to warn of
    fitted = model(GaussianNB(), n_buckets=n_buckets, n_jobs=n_jobs)
    fitted.set_callbacks(recorder).fit(X, y)
    for hook in ("begin", "end"):
        assert sorted(recorder.paths(hook, "repetition")) == [(0, r) for r in range(4)]
        assert recorder.paths(hook, "fit") == [(0,)]


def test_callbacks_reach_the_base_classifiers(blobs):
    X, y = blobs(60)
    recorder = PropagatedRecorder()
    base = LogisticRegression(max_iter=5, tol=0.5)
    fitted = model(base, hashing=np.c_[np.arange(6) % 2, np.arange(6) // 2])
    fitted.set_params(n_repetitions=2).set_callbacks(recorder).fit(X, y)
    steps = recorder.paths("begin", "lbfgs-iter")
    assert {r for _, r, _ in steps} == {0, 1}
    assert [hook for hook, _ in recorder.calls].count("setup") == 1
    for estimator in fitted.estimators_:
        assert not {name for name in vars(estimator) if "callback" in name}


def test_repetitions_of_one_bucket_are_told_to_the_end(blobs):
    X, y = blobs(60)
    recorder = PropagatedRecorder()
    table = np.c_[np.arange(6), np.zeros(6, int)]
    fitted = model(LogisticRegression(), n_repetitions=2, n_buckets=6, hashing=table)
    fitted.set_callbacks(recorder).fit(X, y)
    assert (0, 1) in recorder.paths("end", "repetition")


@pytest.mark.parametrize("base", [None, GaussianNB()])
def test_a_warm_start_tells_of_the_repetitions_it_adds(blobs, base):
    X, y = blobs(60, sparse=False)
    recorder = Recorder()
    fitted = model(base, warm_start=True).fit(X, y)
    fitted.set_params(n_repetitions=6).set_callbacks(recorder).fit(X, y)
    name, expected = (
        ("repetitions", [(0, 4)]) if base is None else ("repetition", [(0, 4), (0, 5)])
    )
    assert recorder.paths("end", name) == expected


def test_partial_fit_tells_nobody(blobs):
    X, y = blobs(60)
    recorder = Recorder()
    model().set_callbacks(recorder).partial_fit(X, y, classes=np.unique(y))
    assert recorder.calls == []


@pytest.mark.parametrize("base", [None, GaussianNB()])
def test_processes_are_not_told_of(blobs, base):
    X, y = blobs(60, sparse=base is None)
    recorder = Recorder(react=lambda path: True)
    with joblib.parallel_config("loky", n_jobs=2):
        fitted = model(base).set_callbacks(recorder).fit(X, y)
    assert recorder.calls == [
        ("setup", FIT),
        ("begin", FIT),
        ("end", FIT),
        ("teardown", FIT),
    ]
    assert_array_equal(
        fitted.decision_function(X), model(base).fit(X, y).decision_function(X)
    )


# Models after an epoch, and stopping ------------------------------------------------


def test_an_epoch_hands_over_the_model_as_it_is_then(blobs, storage):
    X, y = blobs(60, noise=2.0)
    recorder = Recorder()
    fitted = model().set_callbacks(recorder).fit(X, y)
    first, second, third = (recorder.models[path] for path in epochs(0, 3))
    scores = fitted.decision_function(X)
    assert_array_equal(third.decision_function(X), scores)
    assert_array_equal(recorder.models[FIT].decision_function(X), scores)
    assert not np.array_equal(first.coef_, second.coef_)
    assert not np.array_equal(second.coef_, third.coef_)
    for early in (first, second):
        labels = early.predict_topk(X, k=2)
        assert_array_equal(labels[:, 0], early.predict(X))
        assert_allclose(early.predict_proba(X).sum(axis=1), 1)


@pytest.mark.parametrize("inside", [False, True])
def test_an_epoch_hands_over_the_model_whatever_n_jobs_comes_from(
    blobs, storage, inside
):
    # In a worker's thread joblib has another default number of threads.
    X, y = blobs(60, noise=2.0)
    recorders = [Recorder() for _ in range(3)]

    def fit(recorder):
        n_jobs = 3 if inside else None
        return model(n_jobs=n_jobs).set_callbacks(recorder).fit(X, y)

    if inside:
        fits = joblib.Parallel(n_jobs=2, backend="threading")(
            joblib.delayed(fit)(recorder) for recorder in recorders
        )
    else:
        with joblib.parallel_config("threading", n_jobs=3):
            fits = [fit(recorder) for recorder in recorders]
    for fitted, recorder in zip(fits, recorders, strict=True):
        last = [path for path in recorder.models if path[-1] == ("epoch", 2)]
        assert last
        assert_array_equal(recorder.models[FIT].coef_, fitted.coef_)
        for path in last:
            found = recorder.models[path].coef_
            first = path[-2][1]
            assert_array_equal(found[first], fitted.coef_[first])


def test_a_refit_hands_over_the_new_model(blobs):
    X, y = blobs(60)
    other, labels = blobs(80, 9, 5)
    recorder = Recorder()
    fitted = model().fit(X, y).set_callbacks(recorder).fit(other, labels)
    last = recorder.models[epochs(0, 3)[-1]]
    assert_array_equal(last.decision_function(other), fitted.decision_function(other))
    recorder.models.clear()
    fitted.set_params(estimator=GaussianNB()).fit(other.toarray(), labels)
    fitted.set_params(estimator=None).fit(X, y)
    last = recorder.models[epochs(0, 3)[-1]]
    assert_array_equal(last.decision_function(X), fitted.decision_function(X))


@pytest.mark.parametrize("sparse", [False, True])
def test_a_callback_stops_the_training(blobs, storage, sparse):
    X, y = blobs(60, sparse=sparse)
    second = epochs(0, 2)[-1]
    recorder = Recorder(react=lambda path: path == second)
    fitted = model(max_iter=10).set_callbacks(recorder).fit(X, y)
    assert fitted.n_iter_ == 2
    assert recorder.paths("begin", "epoch") == [(0, 0, 0), (0, 0, 1)]
    assert recorder.calls[-3:] == [
        ("end", repetitions(0)),
        ("end", FIT),
        ("teardown", FIT),
    ]
    assert_array_equal(fitted.coef_, recorder.models[second].coef_)


def test_a_callback_stops_one_block_and_not_the_others(blobs, storage):
    X, y = blobs(60)
    recorder = Recorder(react=lambda path: path == epochs(2, 1)[0])
    fitted = model(n_jobs=2).set_callbacks(recorder).fit(X, y)
    assert sorted(recorder.paths("end", "epoch")) == [
        *((0, 0, e) for e in range(3)),
        (0, 2, 0),
    ]
    full = model().fit(X, y)
    assert_array_equal(fitted.coef_[:2], full.coef_[:2])
    assert not np.array_equal(fitted.coef_[2:], full.coef_[2:])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("form", ["sparse", "frame"])
def test_scoring_monitor_logs_each_epoch(blobs, form, weighted):
    X, y = blobs(60, noise=2.0, sparse=form == "sparse")
    if form == "frame":  # its names are those that predict expects
        X = pd.DataFrame(X, columns=[f"x{j}" for j in range(X.shape[1])])
    y = np.array(list("abcdef"))[y]
    weight = np.arange(60) % 3 if weighted else None
    recorder, monitor = Recorder(), callback.ScoringMonitor(scoring="accuracy")
    fitted = model().set_callbacks(recorder, monitor)
    fitted.fit(X, y, sample_weight=weight)
    logged = {row["task_id_path"]: row["accuracy"] for row in monitor.get_logs().data}
    expected = {
        tuple(number for _, number in path): accuracy_score(
            y, early.predict(X), sample_weight=weight
        )
        for path, early in recorder.models.items()
    }
    assert logged == expected
    assert len(logged) == 4  # three epochs and the fit


# Inside others ----------------------------------------------------------------------


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_callbacks_of_a_search_see_every_epoch(blobs, n_jobs):
    X, y = blobs(60)
    recorder = PropagatedRecorder()
    search = GridSearchCV(
        make_pipeline(StandardScaler(with_mean=False), model()),
        {"machclassifier__n_buckets": [3, 4]},
        cv=KFold(3),
    ).set_callbacks(recorder)
    with joblib.parallel_config("threading", n_jobs=n_jobs):
        search.fit(X, y)
    n_fits = 2 * 3 + 1  # folds of two candidates, and the refit
    ended = recorder.paths("end", "epoch")
    blocks = recorder.paths("end", "repetitions")
    assert len(ended) == len(set(ended)) == 3 * len(blocks)
    assert len({path[:-1] for path in blocks}) == n_fits
    assert sorted(ended) == sorted(recorder.paths("begin", "epoch"))
    assert [hook for hook, _ in recorder.calls].count("setup") == 1
    assert recorder.calls[-1][0] == "teardown"
    assert_nothing_left(search.best_estimator_[-1])


def test_callbacks_of_the_classifier_are_kept_in_a_search(blobs):
    X, y = blobs(60)
    recorder = Recorder()
    search = GridSearchCV(
        model().set_callbacks(recorder), {"n_buckets": [3, 4]}, cv=KFold(3)
    ).fit(X, y)
    hooks = [hook for hook, _ in recorder.calls]
    assert hooks.count("setup") == hooks.count("teardown") == 7
    assert len(recorder.paths("end", "epoch")) == 7 * 3
    assert search.score(X, y) > 0.9


# What goes wrong --------------------------------------------------------------------


@pytest.mark.parametrize("base", [None, GaussianNB()])
def test_a_failing_callback_leaves_the_model_untouched(blobs, base):
    X, y = blobs(60, sparse=False)
    name = "epoch" if base is None else "repetition"

    def fail(path):
        if path[-1] == (name, 1):
            raise OSError("no space left")

    recorder = Recorder(react=fail)
    fitted = model(base).fit(X, y)
    before, scores = vars(fitted).copy(), fitted.decision_function(X)
    fitted.set_callbacks(recorder)
    other, labels = blobs(80, 9, 5, sparse=False)
    with pytest.raises(OSError, match="no space left"):
        fitted.fit(other, labels)
    hooks = [hook for hook, _ in recorder.calls]
    assert hooks.count("setup") == hooks.count("teardown") == 1
    assert recorder.calls[-1] == ("teardown", FIT)
    assert vars(fitted).keys() == before.keys() | {"_skl_callbacks"}
    assert_array_equal(fitted.decision_function(X), scores)
    recorder.react, recorder.calls = None, []
    fitted.fit(other, labels)  # and it can be fitted again
    assert recorder.calls[-1] == ("teardown", FIT)


def test_callbacks_are_torn_down_when_the_training_fails(blobs):
    X, y = blobs(60, sparse=False)
    recorder = Recorder()
    failing = model(learning_rate=1e38).set_callbacks(recorder)
    with pytest.raises(ValueError, match="smaller learning_rate"):
        failing.fit(X * 100, y)
    hooks = [hook for hook, _ in recorder.calls]
    assert hooks.count("setup") == hooks.count("teardown") == 1
    assert vars(failing).keys() == vars(model()).keys() | {"_skl_callbacks"}


def test_bad_data_is_refused_before_callbacks_are_set_up(blobs):
    X, y = blobs(60)
    recorder = Recorder()
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model().set_callbacks(recorder).fit(X, y[:50])
    assert recorder.calls == []


# The progress bar -------------------------------------------------------------------


@pytest.mark.parametrize("wrap", ["alone", "pipeline", "search"])
def test_progress_bar(blobs, capsys, wrap):
    pytest.importorskip("rich", reason="ProgressBar needs rich")
    X, y = blobs(60)
    fitted = model()
    if wrap != "alone":
        fitted = make_pipeline(StandardScaler(with_mean=False), fitted)
    if wrap == "search":
        fitted = GridSearchCV(fitted, {"machclassifier__n_buckets": [3]}, cv=KFold(2))
    fitted.set_callbacks(callback.ProgressBar(max_propagation_depth=None)).fit(X, y)
    out = capsys.readouterr().out
    assert out.count("100%") >= 2
    assert "MACHClassifier" in out and "repetitions #0" in out
