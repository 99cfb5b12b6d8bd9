"""The classifier inside pipelines and searches, and `predict_topk`, which they lack."""

from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline

from ._classifier import MACHClassifier


def opened(estimator):
    """The estimator inside pipelines and searches, and the transformers before it."""
    transformers = []
    while True:
        if isinstance(estimator, FrozenEstimator):
            estimator = estimator.estimator
        elif hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        elif isinstance(estimator, Pipeline):
            # Neither "passthrough" nor what resamples in `fit` alone has `transform`.
            # A slice of the pipeline would refuse a last transformer without attributes
            # as not fitted.
            steps = [step for _, step in estimator.steps[:-1]]
            transformers += [step for step in steps if hasattr(step, "transform")]
            estimator = estimator.steps[-1][1]
        else:
            return estimator, transformers


def opened_mach(estimator, caller):
    """The MACHClassifier inside, and the transformers; refuses what has none."""
    model, transformers = opened(estimator)
    if not isinstance(model, MACHClassifier):
        raise TypeError(
            f"{caller} takes a fitted MACHClassifier, or a Pipeline or search that "
            f"ends in one; got {estimator!r}, which ends in {type(model).__name__}. "
            "Fit a search first, with refit=True."
        )
    return model, transformers


def transformed(X, transformers):
    """X as the classifier behind the transformers receives it."""
    for step in transformers:
        X = step.transform(X)
    return X


def predict_topk(estimator, X, k=5, *, return_scores=False, return_proba=False):
    """Predict the k best classes of each row, also by a pipeline or a search.

    scikit-learn's pipelines and searches pass on a fixed list of methods, of which
    :meth:`MACHClassifier.predict_topk` is none.  This function sends X through the
    transformers of the pipeline and calls it.

    Parameters
    ----------
    estimator : fitted MACHClassifier, Pipeline or search
        A pipeline ends in a MACHClassifier; a search, such as GridSearchCV or
        MACHClassifierCV, has it, or such a pipeline, as `best_estimator_`.  Both may be
        nested.
    X : {array-like, sparse matrix} of shape (n_samples, n_features), or iterable
        What `predict` of the estimator takes: texts, if the pipeline begins with a
        vectorizer.
    k : int, default=5
        From 1 to the number of classes.
    return_scores : bool, default=False
        Whether to return the scores too.
    return_proba : bool, default=False
        Whether to return the probabilities too.

    Returns
    -------
    labels : ndarray of shape (n_samples, k)
        Best first; of classes with equal scores the first in `classes_`. Of several
        labels the numbers of their columns in y.
    scores : ndarray of shape (n_samples, k), float32
        Scores as in `decision_function`, if `return_scores`.
    proba : ndarray of shape (n_samples, k), float64
        Probabilities as in `predict_proba`, if `return_proba`.

    Raises
    ------
    TypeError
        If there is no MACHClassifier inside, or a search has no `best_estimator_`.
    NotFittedError
        If it is not fitted.

    See Also
    --------
    MACHClassifier.predict_topk : The method, and what it costs.
    sklearn_mach.metrics.top_k_score : Share of the rows whose label is among them.
    sklearn_mach.inspection.explain : Which features spoke for a class.

    Examples
    --------
    >>> from sklearn.feature_extraction.text import TfidfVectorizer
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn_mach import MACHClassifier, predict_topk
    >>> titles = ["red wine glass", "white wine", "running shoes", "red shoes"]
    >>> shelves = ["kitchen", "cellar", "sport", "fashion"]
    >>> pipeline = make_pipeline(TfidfVectorizer(), MACHClassifier(random_state=0))
    >>> pipeline = pipeline.fit(titles, shelves)
    >>> labels, proba = predict_topk(
    ...     pipeline, ["white wine glass"], k=2, return_proba=True
    ... )
    >>> labels
    array([['cellar', 'kitchen']], dtype='<U7')
    >>> proba.shape
    (1, 2)
    """
    model, transformers = opened_mach(estimator, "predict_topk")
    model._check_prediction(k)  # before X is transformed
    X = transformed(X, transformers)
    return model.predict_topk(
        X, k, return_scores=return_scores, return_proba=return_proba
    )
