"""scikit-learn's estimator checks on every configuration that differs in code path."""

from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.naive_bayes import MultinomialNB
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklearn_mach import MACHClassifier, MACHClassifierCV, _softmax, _steps

# As for scikit-learn's own estimators trained by SGD or without exact weights.
BALANCE = "a weak base on merged classes: weights move its buckets, not its classes"
WEIGHTS = "sample_weight is not equivalent to removing or repeating samples"
SGD_FAILURES = {
    "check_sample_weight_equivalence_on_dense_data": WEIGHTS,
    "check_sample_weight_equivalence_on_sparse_data": WEIGHTS,
}
WEAK = {"check_class_weight_classifiers": BALANCE}
NEGATIVE = {
    "check_decision_proba_consistency": "the check's rows hold negative values, which "
    "MultinomialNB refuses; it has no decision_function itself, so is never asked"
}
TAKEN_BACK = {
    "check_class_weight_classifiers": "a class is adjusted for its share in the "
    "weights, which class_weight raises"
}
BALANCED = "partial_fit refuses class_weight='balanced', as SGDClassifier does"
NOT_IN_BLOCKS = {
    "check_estimators_partial_fit_n_features": BALANCED,
    "check_fit_score_takes_y": BALANCED,
    "check_n_features_in_after_fitting": BALANCED,
}
ONE_ROW = {
    "check_fit2d_1sample": "a single row is refused, because it is the one set aside; "
    "the check asks for words of its own"
}

# "auto" would be 32 repetitions and 100 epochs
SMALL = dict(n_buckets=2, n_repetitions=8, max_iter=40)
BUILT_IN = [
    (MACHClassifier(**SMALL), SGD_FAILURES),
    (MACHClassifier(n_buckets=16), SGD_FAILURES),
]
CONFIGURATIONS = BUILT_IN + [
    (
        MACHClassifier(**SMALL, class_weight="balanced"),
        SGD_FAILURES | NOT_IN_BLOCKS,
    ),
    (MACHClassifier(**SMALL, logit_adjustment=0.5), SGD_FAILURES | TAKEN_BACK),
    # The usual 5 epochs are too few where 30 rows decide, as in these checks.
    (
        MACHClassifier(**SMALL, early_stopping=True, n_iter_no_change=20),
        SGD_FAILURES | ONE_ROW,
    ),
    (MACHClassifier(LogisticRegression(max_iter=1000), **SMALL), {}),
    (MACHClassifier(LogisticRegression(max_iter=1000), n_buckets=16), {}),
    (MACHClassifier(SGDClassifier(loss="log_loss"), **SMALL), SGD_FAILURES | WEAK),
    (MACHClassifier(DecisionTreeClassifier(), **SMALL), WEAK),
    (MACHClassifier(MultinomialNB(), **SMALL), WEAK | NEGATIVE),
    (MACHClassifier(LinearSVC(), **SMALL), SGD_FAILURES),
    (MACHClassifierCV(n_buckets=(2, 16), n_repetitions=8), SGD_FAILURES),
    (
        MACHClassifierCV(
            MACHClassifier(DecisionTreeClassifier()),
            n_buckets=(2, 16),
            n_repetitions=8,
        ),
        WEAK,
    ),
]


def expected_failures(estimator):
    for configured, failures in CONFIGURATIONS:
        if repr(configured) == repr(estimator):
            return failures
    return {}


@parametrize_with_checks(
    [estimator for estimator, _ in CONFIGURATIONS],
    expected_failed_checks=expected_failures,
)
def test_sklearn_compatible(estimator, check):
    check(estimator)


@parametrize_with_checks(
    [estimator for estimator, _ in BUILT_IN],
    expected_failed_checks=expected_failures,
)
def test_sklearn_compatible_by_the_ways_of_large_data(estimator, check, monkeypatch):
    # the trial of the step, calibrated probabilities and weights of 16 bits
    monkeypatch.setattr(_steps, "TRIAL_ROWS", 10)
    monkeypatch.setattr(_softmax, "_CALIBRATION_ROWS", 0)
    monkeypatch.setattr(_steps, "_CACHED", 0)
    check(estimator)
