"""`partial_fit`: a model that learns from one block of rows after the other."""

import numpy as np
from sklearn.utils.metaestimators import available_if

from ._compat import _fit_context, _raise_for_params, unchanged_on_error
from ._fitting import grow, route, train
from ._inputs import check_rows, format_of, targets_of_block
from ._learners import check_continues, checked_learner, has_partial_fit
from ._planning import Plan, plan_fit
from ._portable import Portable
from ._progress import SilentTask


class Incremental(Portable):
    """A `Portable` that can also learn block by block."""

    @available_if(has_partial_fit)
    @_fit_context(prefer_skip_nested_validation=False)
    def partial_fit(self, X, y, classes=None, sample_weight=None, **fit_params):
        """Take one pass over a block of rows.

        The steps of a feature fall with the square root of its visits in all blocks,
        with alpha > 0 those of all features with that of the rows.  After `fit` they
        go on from the rows that `fit` saw.  With learning_rate="auto" the lengths of
        the rows and the document frequencies are those of all blocks so far.  The first
        1,000 rows are kept until the trial for the step; until then the factor is 4.

        A label that is not in `classes_` is a new class from its first row on, whatever
        the weight of the row.  It gets the emptiest buckets that no other class has in
        all repetitions, and no weight changes but by the steps of the block.  Mix its
        rows with rows of other classes, as the :ref:`user guide <new-classes>` shows:
        rows of new classes alone teach that the others no longer occur.  A model with
        no such buckets left, as one repetition with a bucket for each class is, refuses
        new labels.

        The probabilities, and the logit adjustment if it is "auto", stay those of the
        last `fit` or `calibrate`: call `calibrate` after the last block.  The shares of
        the classes, which a logit adjustment needs, are of all blocks.

        Base classifiers are copied before they see the block, and of the built-in
        learner the weights of the features in the block (of all, if X is dense or alpha
        > 0), so that a call that fails leaves the model as it was.  Blocks of many rows
        make the copies cheap.  Parameters of `estimator` that change later do not reach
        the base classifiers of the first call.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            A block of training rows, of the types that `fit` takes.
        y : array-like of shape (n_samples,), or an indicator as in `fit`
            Their labels, of the kind of the first block.  New labels must be of a type
            that sorts with the known ones; the further columns of an indicator are new
            labels, with and without rows.
        classes : array-like of shape (n_classes,), default=None
            All classes; needed at the first call, unless y is an indicator, whose
            columns they are.  Later it is optional, and says which labels may come: it
            must hold all of `classes_`, and a label of y that is not in it is refused.
            Labels in it without a row so far do not join `classes_`.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, as in `fit`.  They count against the mean weight of all
            blocks so far.
        **fit_params : dict
            Passed to `partial_fit` of the base estimator, by metadata routing.

        Returns
        -------
        self : MACHClassifier
        """
        _raise_for_params(fit_params, self, "partial_fit")
        learner = checked_learner(self, in_blocks=True)
        old = getattr(self, "_fitted", None)
        if old is not None:
            check_continues(learner, old, "partial_fit", "Call fit")
            self._check_version("partial_fit")
        with unchanged_on_error(self):
            reset, in_float32 = old is None, learner.in_float32
            if old is None:
                known, self._label_format = (), format_of(y)
            else:
                known = self.classes_, old.model.several
            X, y = check_rows(self, X, y, in_float32=in_float32, reset=reset)
            classes, targets = targets_of_block(y, classes, *known)
            if old is not None and classes.size > self.classes_.size:
                places = np.searchsorted(classes, self.classes_)
                old = grow(old, places, classes.size, learner, self.hashing)
            rows = X, y, targets, classes
            weight, params = route(
                self, learner, "partial_fit", rows, sample_weight, fit_params
            )
            if old is None:
                plan = plan_fit(self, learner, X, targets, weight, classes.size)
            else:
                plan = Plan.of_block(old.model)
            self.classes_, self.device_ = classes, learner.device(X, plan)
            work = X, targets, weight, params, plan, old, self.device_, SilentTask
            self._fitted = train(self, learner, "partial_fit", *work)
        return self
