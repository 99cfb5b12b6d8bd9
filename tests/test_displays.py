"""Displays: what is drawn is what the formulas and the models say."""

from math import comb
from random import Random

import numpy as np
import pytest
import reference
import scipy.sparse as sp
from sklearn.datasets import make_multilabel_classification
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_mach import MACHClassifier, MACHClassifierCV
from sklearn_mach.displays import (
    ClassFrequencyDisplay,
    CollisionDisplay,
    MemoryCurveDisplay,
    ReliabilityDisplay,
    RepetitionCurveDisplay,
)
from sklearn_mach.metrics import (
    RankingScorer,
    TopKScorer,
    calibration_error,
    inverse_propensities,
    precision_at_k,
    propensity_scored_precision_at_k,
)

plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def close_figures():
    plt.close("all")  # of examples in docstrings, run before in this process
    yield
    plt.close("all")


@pytest.fixture
def data(blobs):
    return blobs(120, 8, 10, noise=1.5, sparse=False)


@pytest.fixture
def model(data):
    model = MACHClassifier(n_buckets=4, n_repetitions=4, max_iter=5, random_state=0)
    return model.fit(*data)


def points(line):
    return np.array(line.get_xdata()), np.array(line.get_ydata())


def test_memory_of_a_search(data):
    search = MACHClassifierCV(
        MACHClassifier(max_iter=2),
        n_buckets=[3, 5],
        n_repetitions=4,
        scoring=TopKScorer(2),
        random_state=0,
    ).fit(*data)
    display = MemoryCurveDisplay.from_results(search)
    results = search.cv_results_
    assert len(display.lines_) == 2
    for line, B in zip(display.lines_, [3, 5], strict=True):
        own = results["n_buckets"] == B
        n_bytes, scores = points(line)
        np.testing.assert_array_equal(n_bytes, results["n_bytes"][own])
        np.testing.assert_array_equal(scores, results["mean_test_score"][own])
        assert line.get_label() == f"{B} buckets"
    n_bytes, score = points(display.best_)
    assert n_bytes == search.best_estimator_.model_bytes_
    assert score == search.best_score_
    assert display.ax_.get_ylabel() == "Top-2 accuracy, held out"


def test_memory_of_other_searches_is_refused(data):
    search = GridSearchCV(DummyClassifier(), {"strategy": ["prior"]}).fit(*data)
    message = "(?s)Only a MACHClassifierCV has sizes.*got GridSearchCV.*from_estimators"
    with pytest.raises(ValueError, match=message):
        MemoryCurveDisplay.from_results(search)
    assert not plt.get_fignums()


def test_memory_of_estimators(data, model):
    X, y = data
    dummy = DummyClassifier().fit(X, y)
    display = MemoryCurveDisplay.from_estimators({"MACH": model, "dummy": dummy}, X, y)
    n_bytes, scores = points(display.lines_[0])
    assert n_bytes[-1] == model.model_bytes_
    np.testing.assert_allclose(n_bytes, n_bytes[-1] * np.arange(1, 5) / 4)
    assert scores[-1] == model.score(X, y)
    assert points(display.lines_[1])[1] == dummy.score(X, y)
    assert [text.get_text() for text in display.ax_.texts] == ["MACH", "dummy"]
    display.figure_.canvas.draw()
    labels = [text.get_text() for text in display.ax_.get_xticklabels(which="both")]
    assert any(label.endswith("B") for label in labels)


def test_repetitions(data, model):
    X, y = data
    display = RepetitionCurveDisplay.from_estimator(model, X, y)
    n_repetitions, scores = points(display.line_)
    np.testing.assert_array_equal(n_repetitions, [1, 2, 3, 4])
    for labels, score in zip(model.staged_predict(X), scores, strict=True):
        assert score == np.mean(labels == y)
    assert display.line_.get_label() == "4 buckets"


def test_repetitions_inside_a_pipeline_and_with_weights(data):
    X, y = data
    model = MACHClassifier(n_buckets=4, n_repetitions=3, max_iter=2)
    model = make_pipeline(StandardScaler(), model).fit(X, y)
    weight = np.arange(y.size)
    display = RepetitionCurveDisplay.from_estimator(model, X, y, sample_weight=weight)
    assert points(display.line_)[1][-1] == pytest.approx(
        np.average(model.predict(X) == y, weights=weight)
    )


@pytest.mark.parametrize("weight", [np.zeros(120), -np.ones(120)])
def test_repetitions_refuse_bad_weights(data, model, weight):
    with pytest.raises(ValueError, match="(?i)weight|negative"):
        RepetitionCurveDisplay.from_estimator(model, *data, sample_weight=weight)
    assert not plt.get_fignums()


def test_repetitions_need_a_mach_classifier(data):
    dummy = DummyClassifier().fit(*data)
    with pytest.raises(ValueError, match="Only a MACHClassifier has repetitions"):
        RepetitionCurveDisplay.from_estimator(dummy, *data)


def random_table_collides(K, B, seed):
    """Whether the first 1, 2, 3, 4 buckets of two classes agree."""
    random, prime = Random(seed), 2**61 - 1
    draws = [(random.randrange(1, prime), random.randrange(prime)) for _ in range(4)]
    rows = [
        tuple(reference.carter_wegman(a, b, k, B) for a, b in draws) for k in range(K)
    ]
    return [len({row[:r] for row in rows}) < K for r in (1, 2, 3, 4)]


def test_collisions():
    K, B, n_tables = 40, 16, 300
    display = CollisionDisplay.from_parameters(
        K, B, n_repetitions=4, n_tables=n_tables, random_state=0
    )
    n_repetitions, bound = points(display.bound_)
    np.testing.assert_array_equal(n_repetitions, [1, 2, 3, 4])
    expected = [min(1, comb(K, 2) / B**r) for r in (1, 2, 3, 4)]
    np.testing.assert_allclose(bound, expected)
    # five standard deviations of the mean of so many tables above the bound, at most
    slack = 5 * np.sqrt(bound * (1 - bound) / n_tables)
    assert np.all(display.rate <= bound + slack)
    # tables drawn here; five standard deviations of the difference of two rates
    alike = np.mean([random_table_collides(K, B, s) for s in range(n_tables)], axis=0)
    spread = np.sqrt((alike * (1 - alike) + 1 / n_tables) / n_tables * 2)
    assert np.all(np.abs(display.rate - alike) < 5 * spread)
    shown, rate = points(display.rate_)
    assert np.all(rate > 0)
    np.testing.assert_array_equal(shown, n_repetitions[display.rate > 0])
    assert display.ax_.get_yscale() == "log"
    # two standard errors of a share of so many tables, to both sides
    (bars,) = display.ax_.collections
    for segment, p in zip(bars.get_segments(), rate, strict=True):
        error = 2 * np.sqrt(p * (1 - p) / n_tables)
        np.testing.assert_allclose(segment[1, 1] - p, error, atol=1e-12)
        assert 0 < segment[0, 1] <= p


def test_collisions_default_to_the_bound_and_repeat_with_a_seed():
    first, second = (
        CollisionDisplay.from_parameters(30, 4, n_tables=20, random_state=1)
        for _ in range(2)
    )
    assert first.bound[-1] <= 1e-3 < first.bound[-2]
    np.testing.assert_array_equal(first.rate, second.rate)


@pytest.mark.parametrize("name", ["n_repetitions", "n_tables"])
def test_collisions_refuse_what_is_not_a_count(name):
    with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1"):
        CollisionDisplay.from_parameters(30, 4, **{name: 0})


def test_reliability_of_predictions():
    display = ReliabilityDisplay.from_predictions(
        ["a", "a", "b", "b"], ["a", "b", "b", "b"], [0.3, 0.5, 0.9, 1.0], n_bins=2
    )  # (0, 0.5] holds two rows, one of them right; (0.5, 1] two, both right
    np.testing.assert_allclose(points(display.line_), [[0.4, 0.95], [0.5, 1.0]])
    np.testing.assert_array_equal(display.n_rows, [2, 2])


def test_reliability_of_an_estimator(data, model):
    X, y = data
    display = ReliabilityDisplay.from_estimator(model, X, y, n_bins=7)
    proba = model.predict_proba(X)
    same = ReliabilityDisplay.from_predictions(
        y, model.predict(X), proba.max(axis=1), n_bins=7, ax=display.ax_
    )
    np.testing.assert_allclose(points(same.line_), points(display.line_))
    # the mean distance from the diagonal
    gaps = np.abs(display.accuracy - display.confidence)
    error = np.average(gaps, weights=display.n_rows)
    assert error == pytest.approx(calibration_error(model, X, y, n_bins=7))
    assert display.line_.get_label() == "MACHClassifier"
    labels = display.ax_.get_legend_handles_labels()[1]
    assert labels.count("perfectly calibrated") == 1


@pytest.mark.parametrize("confidence", [[1.5], [np.nan], [-0.1]])
def test_reliability_refuses_what_is_not_a_probability(confidence):
    with pytest.raises(ValueError, match="confidence must hold probabilities"):
        ReliabilityDisplay.from_predictions([1], [1], confidence)


def test_class_frequency():
    y_train = np.repeat([1, 2, 3, 4, 5], [1, 2, 3, 4, 1024])
    y_true = [0, 1, 2, 3, 4, 5, 5]
    y_pred = [1, 1, 2, 2, 4, 5, 4]
    display = ClassFrequencyDisplay.from_predictions(y_true, y_pred, y_train)
    assert display.labels == ["0", "1", "2-3", "4-7", "1,024-2,047"]
    np.testing.assert_array_equal(display.n_rows, [1, 1, 2, 1, 2])
    heights = [bar.get_height() for bar in display.bar_]
    np.testing.assert_array_equal(heights, [0, 1, 0.5, 1, 0.5])
    ticks = [text.get_text() for text in display.ax_.get_xticklabels()]
    assert ticks == ["0", "1", "2", "4", "1k"]


def test_class_frequency_of_labels_that_cannot_be_sorted():
    y_train = np.array([1, "a", None, "a"], object)
    y_true = np.array(["a", None, 1, 2.5, "b"], object)
    y_pred = np.array(["a", 1, 1, 2.5, "a"], object)
    display = ClassFrequencyDisplay.from_predictions(y_true, y_pred, y_train)
    assert display.labels == ["0", "1", "2-3"]
    np.testing.assert_array_equal(display.n_rows, [2, 2, 1])
    np.testing.assert_array_equal(display.accuracy, [0.5, 0.5, 1])


def test_class_frequency_of_an_estimator(data, model):
    X, y = data
    display = ClassFrequencyDisplay.from_estimator(model, X, y, y)
    assert display.labels == ["8-15"]  # 12 rows of each of the 10 classes
    assert display.accuracy == [model.score(X, y)]


def test_lines_are_drawn_where_and_how_the_caller_says(model, data):
    figure, ax = plt.subplots()
    display = RepetitionCurveDisplay.from_estimator(
        model, *data, name="mine", ax=ax, color="red", linewidth=3
    )
    assert display.ax_ is ax and display.figure_ is figure
    assert display.line_.get_color() == "red"
    assert display.line_.get_linewidth() == 3
    (name,) = ax.texts
    assert name.get_text() == "mine" and name.get_color() == "red"
    assert display.plot() is display
    assert display.ax_ is not ax


def test_names_at_the_ends_of_lines_do_not_overlap(data, model):
    X, y = data
    figure, ax = plt.subplots()
    ax.axhline(0.5, label="not in units of the data")
    for name in ("first", "second", "third"):  # three times the same line
        RepetitionCurveDisplay.from_estimator(model, X, y, name=name, ax=ax)
    assert sorted(text.get_text() for text in ax.texts) == ["first", "second", "third"]
    figure.canvas.draw()
    boxes = sorted((text.get_window_extent() for text in ax.texts), key=lambda b: b.y0)
    for low, high in zip(boxes[:-1], boxes[1:], strict=True):
        assert low.y1 <= high.y0
    end = ax.transData.transform(ax.get_lines()[-1].get_xydata()[-1])
    assert boxes[0].y0 < end[1] < boxes[0].y1


def test_no_display_has_lines_above_or_to_the_right(data, model):
    display = RepetitionCurveDisplay.from_estimator(model, *data)
    spines = display.ax_.spines
    shown = [side for side in spines if spines[side].get_visible()]
    assert sorted(shown) == ["bottom", "left"]


# Several labels a row -----------------------------------------------------------------


@pytest.fixture
def tagged():
    """Counts of words and a sparse indicator of 12 labels, some rows of it empty."""
    X, Y = make_multilabel_classification(150, 20, n_classes=12, random_state=0)
    return X, sp.csr_array(Y)


@pytest.fixture
def tagger(tagged):
    model = MACHClassifier(n_buckets=4, n_repetitions=4, max_iter=5, random_state=0)
    return model.fit(*tagged)


def precision_at_1(Y, columns):
    return np.mean([Y[i, column] for i, column in enumerate(columns)])


def test_memory_of_a_search_of_several_labels(tagged):
    search = MACHClassifierCV(
        MACHClassifier(max_iter=2), n_buckets=[3, 5], n_repetitions=4, refit=False
    ).fit(*tagged)
    display = MemoryCurveDisplay.from_results(search)
    drawn = np.concatenate([points(line)[1] for line in display.lines_])
    np.testing.assert_array_equal(drawn, search.cv_results_["mean_test_score"])
    assert display.ax_.get_ylabel() == "Precision@1, held out"
    search.set_params(scoring=RankingScorer("ndcg", k=3)).fit(*tagged)
    display = MemoryCurveDisplay.from_results(search)
    assert display.ax_.get_ylabel() == "nDCG@3, held out"


def test_memory_of_estimators_of_several_labels(tagged, tagger):
    X, Y = tagged
    other = OneVsRestClassifier(LogisticRegression(max_iter=1000)).fit(X, Y)
    models = {"MACH": tagger, "one-vs-rest": other}
    display = MemoryCurveDisplay.from_estimators(models, X, Y)
    dense = Y.toarray()
    own, others = (points(line)[1] for line in display.lines_)
    for columns, score in zip(tagger.staged_predict_topk(X, 1), own, strict=True):
        assert score == pytest.approx(precision_at_1(dense, columns[:, 0]))
    best = other.decision_function(X).argmax(axis=1)
    assert others == pytest.approx(precision_at_1(dense, best))
    assert display.ax_.get_ylabel() == "Precision@1"


def test_repetitions_of_several_labels(tagged, tagger):
    X, Y = tagged
    weight = np.arange(Y.shape[0])
    psp = RankingScorer("psp", 3, inverse_propensities(Y))
    names = {"accuracy": "Precision@1", psp: "PSP@3"}
    for scoring, name in names.items():
        display = RepetitionCurveDisplay.from_estimator(
            tagger, X, Y.toarray(), scoring=scoring, sample_weight=weight
        )
        k = 1 if scoring == "accuracy" else 3
        stages = list(tagger.staged_predict_topk(X, k))
        if scoring == "accuracy":
            expected = [precision_at_k(Y, best, 1, weight) for best in stages]
        else:
            expected = [
                propensity_scored_precision_at_k(Y, best, psp.weights, 3, weight)
                for best in stages
            ]
        np.testing.assert_allclose(points(display.line_)[1], expected)
        assert display.ax_.get_ylabel() == name


def test_repetitions_by_top_k_accuracy(data, model):
    X, y = data
    display = RepetitionCurveDisplay.from_estimator(model, X, y, scoring=TopKScorer(2))
    for labels, score in zip(
        model.staged_predict_topk(X, 2), points(display.line_)[1], strict=True
    ):
        assert score == np.mean([y[i] in labels[i] for i in range(y.size)])
    assert display.ax_.get_ylabel() == "Top-2 accuracy"


def test_repetitions_refuse_labels_and_scores_of_another_kind(
    data, model, tagged, tagger
):
    draw = RepetitionCurveDisplay.from_estimator
    X, y = data
    with pytest.raises(ValueError, match="several labels a row.*Use TopKScorer"):
        draw(model, X, y, scoring=RankingScorer())
    with pytest.raises(ValueError, match="an indicator of several. Use RankingScorer"):
        draw(tagger, *tagged, scoring=TopKScorer())
    with pytest.raises(ValueError, match="a TopKScorer or a RankingScorer; got 'f1'"):
        draw(tagger, *tagged, scoring="f1")
    with pytest.raises(ValueError, match="y has several labels a row, but the model"):
        draw(model, X, sp.csr_array(np.eye(10))[y])
    with pytest.raises(ValueError, match="y has one label a row, but the model"):
        draw(tagger, tagged[0], np.zeros(150, int))
    assert not plt.get_fignums()


def test_reliability_of_predictions_of_several_labels(tagged, tagger):
    X, Y = tagged
    display = ReliabilityDisplay.from_estimator(tagger, X, Y)
    proba = tagger.predict_proba(X)
    same = ReliabilityDisplay.from_predictions(
        Y, proba.argmax(axis=1), proba.max(axis=1)
    )
    np.testing.assert_allclose(points(same.line_), points(display.line_))
    for wrong, got in (np.zeros(150), "0., 0."), (np.full(150, 12), "12, 12"):
        with pytest.raises(ValueError, match=f"numbers of its columns.*got.*{got}"):
            ReliabilityDisplay.from_predictions(Y, wrong, proba.max(axis=1))


@pytest.mark.parametrize("form", [np.array, sp.csr_array, sp.csc_matrix])
def test_class_frequency_of_several_labels(form):
    y_train = form([[1, 0, 1, 1]] + [[1, 0, 0, 1]] * 2 + [[1, 0, 0, 0]])  # 4, 0, 1, 3
    y_true = form([[1, 1, 0, 0], [1, 0, 1, 1], [0, 0, 0, 0], [1, 0, 0, 1]])
    y_pred = form([[1, 0, 1, 1], [0, 0, 1, 1], [1, 1, 1, 1], [1, 0, 0, 0]])
    display = ClassFrequencyDisplay.from_predictions(y_true, y_pred, y_train)
    assert display.labels == ["0", "1", "2-3", "4-7"]
    np.testing.assert_array_equal(display.n_rows, [1, 1, 2, 3])
    np.testing.assert_allclose(display.accuracy, [0, 1, 1 / 2, 2 / 3])
    assert display.ax_.get_ylabel() == "Recall"


def test_class_frequency_of_an_estimator_of_several_labels(tagged, tagger):
    X, Y = tagged
    display = ClassFrequencyDisplay.from_estimator(tagger, X, Y, Y)
    assert display.n_rows.sum() == Y.nnz
    found = (display.accuracy * display.n_rows).sum()
    assert found == pytest.approx((tagger.predict(X).toarray() * Y.toarray()).sum())


def test_class_frequency_refuses_labels_of_different_kinds():
    message = r"labels of one kind.* \(2,\), \(2,\) and \(2, 3\)"
    with pytest.raises(ValueError, match=message):
        ClassFrequencyDisplay.from_predictions([0, 1], [0, 1], [[0, 1, 0], [1, 0, 0]])
