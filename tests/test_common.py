"""scikit-learn's estimator checks on every configuration that differs in code path."""

from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.naive_bayes import MultinomialNB
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklearn_mach import MACHClassifier, MACHClassifierCV

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

CONFIGURATIONS = [
    (MACHClassifier(n_buckets=2), SGD_FAILURES),
    (MACHClassifier(n_buckets=16), SGD_FAILURES),
    (MACHClassifier(LogisticRegression(max_iter=1000), n_buckets=2), {}),
    (MACHClassifier(LogisticRegression(max_iter=1000), n_buckets=16), {}),
    (MACHClassifier(SGDClassifier(loss="log_loss"), n_buckets=2), SGD_FAILURES | WEAK),
    (MACHClassifier(DecisionTreeClassifier(), n_buckets=2), WEAK),
    (MACHClassifier(MultinomialNB(), n_buckets=2), WEAK | NEGATIVE),
    (MACHClassifier(LinearSVC(), n_buckets=2), SGD_FAILURES),
    (MACHClassifierCV(n_buckets=(2, 16), n_repetitions=8), SGD_FAILURES),
    (
        MACHClassifierCV(MACHClassifier(DecisionTreeClassifier()), n_buckets=(2, 16)),
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
