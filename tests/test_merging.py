"""Parts of a fit, and models of other seeds, joined: compared with one fit of all."""

import pickle
import subprocess
import sys

import joblib
import numpy as np
import pytest
import scipy.sparse as sp
from helpers import DECODERS, assert_state_is_plain, needs_compilation
from numpy.testing import assert_allclose, assert_array_equal
from several import planted
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.tree import DecisionTreeClassifier
from test_saving import assert_same, there_and_back

from sklearn_mach import MACHClassifier, MACHClassifierCV, _planning, load, merge
from sklearn_mach._files import read, write
from sklearn_mach.datasets import make_many_classes

R = 5
SMALL = dict(n_repetitions=R, n_buckets=8, max_iter=2, random_state=0)
shares = pytest.mark.parametrize("n", [2, 3, R])


@pytest.fixture(scope="module")
def many():
    """So many rows that some are set aside; the fourth repetition is clustered."""
    return make_many_classes(10_500, 60, 40, random_state=0)


@pytest.fixture(scope="module")
def tagged():
    X, Y, _ = planted(10_500, 20, 12)
    return X, Y


def in_parts(model, n, X, y, **fit_params):
    """The model, fitted in n parts, as it comes from n machines."""
    parts = [clone(model).set_params(part=(i, n)) for i in range(n)]
    return [pickle.loads(pickle.dumps(p.fit(X, y, **fit_params))) for p in parts]


def assert_is_whole(model, n, X, y, **fit_params):
    """All that is pickled of n parts, merged in any order, is that of one fit."""
    parts = in_parts(model, n, X, y, **fit_params)
    order = np.random.default_rng(n).permutation(n)
    merged, whole = merge([parts[i] for i in order]), clone(model)
    assert_same(merged, whole.fit(X, y, **fit_params))
    return merged, whole


# Parts of one fit ---------------------------------------------------------------------


@needs_compilation
@shares
@pytest.mark.parametrize("hashing", ["clustered", "universal", "table"])
def test_parts_of_one_fit_are_that_fit(many, storage, hashing, n):
    X, y = many
    model = MACHClassifier(**SMALL)
    if hashing == "table":
        hashing = clone(model).fit(X[:200], np.arange(200) % 40).bucket_table_
    model.set_params(hashing=hashing)
    merged, whole = assert_is_whole(model, n, X, y)
    assert whole._fitted.model.scalars is not None  # on rows set aside
    assert_array_equal(merged.predict_proba(X[:99]), whole.predict_proba(X[:99]))
    for fitted in (merged, whole):
        fitted.partial_fit(X[:50], y[:50])
    assert_same(merged, whole)


@needs_compilation
@shares
def test_parts_with_several_labels(tagged, storage, n):
    model = MACHClassifier(**SMALL | {"n_buckets": 4}, logit_adjustment=0.3)
    _, whole = assert_is_whole(model, n, *tagged)
    assert whole._fitted.model.scalars.size == 4


@needs_compilation
@pytest.mark.parametrize(
    "options",
    [
        {"early_stopping": True, "max_iter": 30, "n_iter_no_change": 1},
        {"class_weight": "balanced"},
        {"learning_rate": 0.5, "alpha": 1e-5},
        {"logit_adjustment": 0.5, "decoder": "mean"},
        {"decoder": "median", "n_jobs": 2},
    ],
    ids=str,
)
def test_parts_with_other_parameters(many, options):
    model = MACHClassifier(**SMALL | options)
    weight = np.random.default_rng(0).pareto(1.5, many[1].size)
    weight[::50] = 0
    _, whole = assert_is_whole(model, 2, *many, sample_weight=weight)
    if "early_stopping" in options:
        parts = in_parts(model, R, *many, sample_weight=weight)
        n_iter = [part.n_iter_ for part in parts]
        assert min(n_iter) < max(n_iter) == whole.n_iter_


@needs_compilation
def test_sizes_of_auto_are_those_of_the_whole(monkeypatch):
    X, y = make_many_classes(1000, 2500, 300, random_state=0)
    model = MACHClassifier(max_iter=1, learning_rate=0.1, random_state=3)
    whole = clone(model).fit(X, y)
    free = 2 * whole.coef_.nbytes  # "auto" takes at most half of it
    monkeypatch.setattr(_planning, "free_memory", lambda: free // 2)
    assert clone(model).fit(X, y).n_repetitions_ < whole.n_repetitions_
    parts = in_parts(model, 3, X, y)
    assert_same(merge(parts), whole)
    assert parts[0].n_repetitions == "auto"


@needs_compilation
@pytest.mark.parametrize("several", [False, True])
def test_whole_blocks_of_dense_rows_are_dealt(many, tagged, several):
    X, y = tagged if several else many
    X, y = X[:1200].toarray(), y[:1200]
    B = 12 if several else 25  # blocks of 42, or 20, repetitions of at most 512 columns
    options = dict(n_repetitions=2 * (512 // B) + 5, n_buckets=B, max_iter=1)
    model = MACHClassifier(**SMALL | options)
    for n in (2, 3):
        assert_is_whole(model, n, X, y)


@needs_compilation
def test_dense_rows_in_more_parts_than_blocks_are_equal_to_rounding(many):
    X, y = many[0].toarray(), many[1]
    model = MACHClassifier(**SMALL)
    merged, whole = merge(in_parts(model, 3, X, y)), clone(model).fit(X, y)
    assert_array_equal(merged.bucket_table_, whole.bucket_table_)
    # float32 keeps 6e-8 of a number, and some hundred batches add up
    assert_allclose(merged.coef_, whole.coef_, rtol=1e-3, atol=1e-4)
    assert_allclose(merged._fitted.model.scalars, whole._fitted.model.scalars, 1e-2)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(
    "base",
    [SGDClassifier(loss="log_loss", max_iter=5, tol=None), DecisionTreeClassifier()],
    ids=["sgd", "tree"],
)
def test_parts_of_base_estimators(several, base):
    X, Y, _ = planted(300)
    y = Y if several else Y[:, :4] @ [1, 2, 4, 8]
    model = MACHClassifier(base, n_repetitions=R, n_buckets=4, random_state=0)
    whole = clone(model).fit(X, y)
    for n in (2, 3, R):
        merged = merge(in_parts(model, n, X, y)[::-1])
        assert repr(merged) == repr(whole)
        assert len(merged.estimators_) == R
        assert merged.n_iter_ == whole.n_iter_
        assert_array_equal(merged.bucket_table_, whole.bucket_table_)
        for decoder in DECODERS:
            for fitted in (merged, whole):
                fitted.set_params(decoder=decoder)
            ours, theirs = merged.predict_proba(X), whole.predict_proba(X)
            assert_array_equal(ours, theirs)
        for fitted in (merged, whole):
            fitted.set_params(decoder="log_mean")


def test_a_part_is_a_model_of_its_repetitions(many):
    X, y = many
    whole = MACHClassifier(**SMALL).fit(X, y)
    parts = in_parts(clone(whole), 2, X, y)
    for part, own in zip(parts, np.array_split(np.arange(R), 2), strict=True):
        assert part.n_repetitions_ == own.size
        assert_array_equal(part.bucket_table_, whole.bucket_table_[:, own])
        assert_array_equal(part.coef_, whole.coef_[own])
        assert part.coef_.base.shape == (X.shape[1], own.size * 8)  # no more weights
        assert part.score(X, y) > 0.5 * whole.score(X, y)
        assert_allclose(part.predict_proba(X[:9]).sum(axis=1), 1)
        assert_state_is_plain_but_for_rows(part)
    assert "_share" not in whole.__getstate__()
    assert "_share" not in merge(parts).__getstate__()
    assert "_share" not in parts[0].compress(bits=8).__getstate__()


def assert_state_is_plain_but_for_rows(model):
    """Rows set aside may be sparse; all else is plain."""
    X, *others = model._fitted.share.rows
    assert sp.issparse(X) and X.shape[0] == 210  # 2 % of the rows
    assert others[1].shape == (210,)
    share = model._fitted.share._replace(rows=None)
    model = pickle.loads(pickle.dumps(model))
    model._fitted = model._fitted._replace(share=share)
    assert_state_is_plain(model)


def test_a_merged_model_grows_as_the_whole_does(blobs):
    X, y = blobs(120, n_classes=30)
    model = MACHClassifier(**SMALL | {"n_buckets": 4})
    merged, whole = assert_is_whole(model, 2, X, y)
    for fitted in (merged, whole):
        fitted.set_params(warm_start=True, n_repetitions=R + 4).fit(X, y)
    assert_same(merged, whole)
    assert_same(whole, clone(whole).fit(X, y))


def test_a_part_that_was_lost_can_follow(many):
    X, y = many
    parts = in_parts(MACHClassifier(**SMALL), 3, X, y)
    most = merge([parts[2], parts[0]])
    assert most.n_repetitions_ == 3
    assert most._fitted.model.scalars is not None
    assert most.score(X, y) > 0.9 * merge(parts).score(X, y)
    rows = X[:9], y[:9]
    with pytest.raises(ValueError, match="has 3 of the 5 rep.*Merge all.*Call fit"):
        most.partial_fit(*rows)
    with pytest.raises(ValueError, match=r"warm_start=True.*3 of the 5.*=False to st"):
        clone_of(most).set_params(warm_start=True).fit(*rows)
    assert_same(merge([parts[1], most]), clone(most).fit(X, y))


def clone_of(fitted):
    return pickle.loads(pickle.dumps(fitted))


JOB = """
import sys
import joblib
folder, i, n = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
X, y, model = joblib.load(folder + "/data.joblib")
model.set_params(part=(i, n)).fit(X, y).save(f"{folder}/part-{i}")
"""


@needs_compilation
def test_processes_that_share_nothing_but_files(tmp_path, many):
    X, y = many
    model = MACHClassifier(**SMALL)
    joblib.dump((X, y, model), tmp_path / "data.joblib")
    jobs = [
        subprocess.Popen([sys.executable, "-c", JOB, str(tmp_path), str(i), "2"])
        for i in range(2)
    ]
    assert [job.wait() for job in jobs] == [0, 0]
    merged = merge(load(tmp_path / f"part-{i}") for i in range(2))
    assert_same(there_and_back(merged, tmp_path), model.fit(X, y))


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("mmap", [True, False])
def test_parts_in_files(tmp_path, many, sparse, mmap):
    X, y = many
    part = MACHClassifier(**SMALL, part=(1, 3)).fit(X if sparse else X.toarray(), y)
    loaded = there_and_back(part, tmp_path, mmap)
    assert_same(loaded, part)
    assert loaded.part == (1, 3)
    loaded.save(tmp_path / "again")
    assert_same(load(tmp_path / "again"), part)


SHARES = [  # what a hostile file may have in place of what a part keeps
    lambda n, R, own, seed, rows: ["tuple", [n, R, own, seed]],
    lambda n, R, own, seed, rows: ["list", [n, R, own, seed, rows]],
    lambda n, R, own, seed, rows: ["tuple", [0, R, own, seed, rows]],
    lambda n, R, own, seed, rows: ["tuple", [n, 1, own, seed, rows]],
    lambda n, R, own, seed, rows: ["tuple", [n, R, None, seed, rows]],
    lambda n, R, own, seed, rows: ["tuple", [n, R, ["array", "less"], seed, rows]],
    lambda n, R, own, seed, rows: ["tuple", [n, R, ["array", "twice"], seed, rows]],
    lambda n, R, own, seed, rows: ["tuple", [n, R, ["array", "below"], seed, rows]],
    lambda n, R, own, seed, rows: ["tuple", [n, R, own, -1, rows]],
    lambda n, R, own, seed, rows: ["tuple", [n, R, own, seed, 3]],
    lambda n, R, own, seed, rows: ["tuple", [n, R, own, seed, ["tuple", [rows]]]],
]


def test_shares_in_files_are_checked(tmp_path, many):
    X, y = many
    MACHClassifier(**SMALL, part=(1, 2)).fit(X, y).save(tmp_path / "part")
    content = read(tmp_path / "part", mmap=False)
    values = content.values
    _, nodes = values["state"]["_share"]

    def load_with(share, **arrays):
        state = values["state"] | {"_share": share}
        write(tmp_path / "bad", content.arrays | arrays, values | {"state": state})
        return load(tmp_path / "bad")

    assert load_with(["tuple", nodes]).n_repetitions_ == 2
    more = {"less": np.arange(1), "twice": np.array([3, 3]), "below": np.array([-1, 3])}
    for change in SHARES:
        share = change(*nodes)
        used = {name: a for name, a in more.items() if name in repr(share)}
        with pytest.raises(ValueError, match="cannot be loaded.*(_share|its arrays)"):
            load_with(share, **used)
    (name,) = (n for n in content.arrays if n.startswith("_share") and "indices" in n)
    far = np.full_like(content.arrays[name], X.shape[1])
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_with(["tuple", nodes], **{name: far})


def test_the_memory_of_a_part_is_that_of_its_weights(blobs, monkeypatch):
    X, y = blobs(60, n_features=2000, n_classes=30)
    options = dict(n_repetitions=4, n_buckets=512, hashing=table_of(30, 4))
    model = MACHClassifier(**options, learning_rate=0.1, max_iter=1, random_state=0)
    one = 2001 * 512 * 4  # bytes of a repetition
    monkeypatch.setattr(_planning, "free_memory", lambda: 2 * one)
    with pytest.raises(MemoryError, match="weights of n_repetitions=4 with"):
        model.fit(X, y)
    parts = in_parts(model, 2, X, y)
    assert merge(parts).n_repetitions_ == 4
    monkeypatch.setattr(_planning, "free_memory", lambda: one)
    with pytest.raises(MemoryError, match=r"2 of n_repetitions=4 .*to more parts"):
        model.set_params(part=(0, 2)).fit(X, y)


def table_of(K, n_repetitions):
    rng = np.random.default_rng(0)
    return np.column_stack([rng.permutation(K) for _ in range(n_repetitions)])


# Models of other seeds ----------------------------------------------------------------


def with_seeds(model, seeds, X, y):
    return [clone(model).set_params(random_state=seed).fit(X, y) for seed in seeds]


@pytest.mark.parametrize("base", [None, GaussianNB()])
def test_scores_of_other_seeds_are_averaged(blobs, base):
    X, y = blobs(400, n_classes=30, sparse=False)
    model = MACHClassifier(base, n_repetitions=4, n_buckets=6)
    models = with_seeds(model, [0, 1, 2], X, y)
    merged = merge(models)
    tables = [m.bucket_table_ for m in models]
    assert_array_equal(merged.bucket_table_, np.concatenate(tables, axis=1))
    scores = np.mean([m.decision_function(X) for m in models], axis=0)
    assert_allclose(merged.decision_function(X), scores, rtol=1e-4, atol=1e-5)
    assert (merged.n_repetitions_, merged.n_repetitions) == (12, 12)
    assert merged.random_state == 0
    assert merged.n_iter_ == max(m.n_iter_ for m in models)
    assert_array_equal(merged._fitted.class_weights, np.bincount(y))
    assert [m.n_repetitions for m in models] == [4, 4, 4]
    merged.partial_fit(X, y)
    merged.set_params(warm_start=True, n_repetitions=13).fit(X, y)
    assert merged.n_repetitions_ == 13


def test_rows_that_are_passed_calibrate(many):
    X, y = many
    models = with_seeds(MACHClassifier(**SMALL), [0, 1], X[:-500], y[:-500])
    for model, tau in zip(models, (0.2, 0.4), strict=True):
        model.set_params(logit_adjustment=tau).calibrate(X[-500:], y[-500:])
        model.set_params(logit_adjustment="auto")
    alone, rows = merge(models), (X[-500:], y[-500:])
    assert alone._fitted.model.scalars is None
    assert_allclose(alone.logit_adjustment_, 0.3)
    assert_same(merge(models, *rows), alone.calibrate(*rows))
    with pytest.raises(ValueError, match="both X and y, or neither"):
        merge(models, X)


def test_tables_are_joined_where_one_name_does_not_say_how(blobs):
    X, y = blobs(100, n_classes=20)
    model = MACHClassifier(**SMALL | {"n_repetitions": 3})
    models = with_seeds(model, [0, 1], X, y)
    models += with_seeds(clone(model).set_params(hashing="universal"), [2], X, y)
    merged = merge(models)
    assert_array_equal(merged.hashing, merged.bucket_table_)
    assert clone(merged).fit(X, y).n_repetitions_ == 9
    assert merge(models[:2]).hashing == "clustered"
    pairs = merged.bucket_table_[:, None] == merged.bucket_table_[None]
    chance = pairs[~np.eye(20, dtype=bool)].mean()
    assert_allclose(merged._fitted.model.chance, chance)


class Special(MACHClassifier):
    """A subclass."""


def test_subclasses_and_single_models_are_merged(blobs):
    X, y = blobs()
    model = Special(**SMALL | {"n_buckets": 3}).fit(X, y)
    assert type(merge(with_seeds(model, [0, 1], X, y))) is Special
    assert_same(merge([model]), model)


def test_packed_weights_are_refused_and_merged_ones_compress(blobs):
    X, y = blobs()
    models = with_seeds(MACHClassifier(**SMALL | {"n_buckets": 3}), [0, 1], X, y)
    merged = merge(models).compress(bits=8)
    models[1] = models[1].compress(bits=8)
    with pytest.raises(ValueError, match=r"models\[1\] is compressed.*then compress"):
        merge(models)
    with pytest.raises(ValueError, match=r"models\[0\] is compressed"):
        merge([merged])


# Refused ------------------------------------------------------------------------------


@pytest.fixture
def fitted(blobs):
    """A function that fits a model of some parameters on a few rows."""
    X, y = blobs(60)

    def fit(X=X, y=y, **options):
        sizes = dict(n_repetitions=4, n_buckets=3, max_iter=1, random_state=0)
        return MACHClassifier(**sizes | options).fit(X, y)

    return fit


def refused(models, match, kind=ValueError):
    with pytest.raises(kind, match=f"(?s){match}"):
        merge(models)


def test_what_is_no_fitted_model(fitted):
    refused([], "models is empty. Pass at least one")
    refused([MACHClassifier()], "not fitted", NotFittedError)
    search = MACHClassifierCV(refit=True)
    refused([fitted(), search], r"models\[1\] is MACHClassifierCV.*best_est", TypeError)
    refused([3], "models.0. is 3, of type int", TypeError)


def test_models_of_other_problems(fitted, blobs):
    X, y = blobs(60)
    one, other = fitted(), {"random_state": 1}
    names = np.array(list("abcdef"))
    refused(
        [one, fitted(y=names[y], **other)], r"models\[1\] has classes_=.*the same c"
    )
    refused([one, fitted(y=y % 5, **other)], "the same classes")
    refused([one, fitted(X=X[:, :7], **other)], "n_features_in_=7.* has 12")
    refused([one, fitted(n_buckets=2, **other)], "n_buckets_=2.*has 3")
    indicator = np.eye(6, dtype=int)[y]
    several = fitted(y=indicator, **other)
    refused([one, several], "multilabel_=True.*one label a row, or several")
    refused([one, fitted(decoder="min", **other)], "decoder='min'.*see set_params")
    base = fitted(estimator=DecisionTreeClassifier(), **other)
    refused([one, base], "a learner=.*DecisionTree.*has 'estimator=None'")
    bayes = fitted(X=X.toarray(), estimator=GaussianNB())
    refused([base, bayes], "GaussianNB.*DecisionTree.*classifiers of the same type")


def test_other_names_of_features(fitted, blobs):
    pandas = pytest.importorskip("pandas")
    X, y = blobs(60, sparse=False)
    frame = pandas.DataFrame(X, columns=[f"f{j}" for j in range(12)])
    models = [fitted(X=frame), fitted(X=frame[frame.columns[::-1]], random_state=1)]
    refused(models, "feature_names_in_=.*in the same order")
    refused([models[0], fitted(X=X, random_state=1)], "feature_names_in_=None")


@pytest.mark.parametrize("base", [None, DecisionTreeClassifier()])
def test_the_same_repetition_twice(fitted, base):
    model = fitted(estimator=base)
    match = r"models\[1\] and models\[0\] have the same repetition.*random_state"
    refused([model, clone_of(model)], match)
    refused([model, model], match)
    refused([model, fitted(estimator=base, n_repetitions=5)], match)
    parts = [fitted(estimator=base, part=(i, 2)) for i in (0, 1, 1)]
    refused(parts, "Repetition 2 of the fit is in two of the parts")


def test_parts_of_different_fits(fitted, blobs):
    part = fitted(part=(0, 2))
    for options, match in (
        ({"part": (1, 3)}, "n_parts is 3, not 2"),
        ({"n_repetitions": 5}, "n_repetitions is 5, not 4"),
        ({"random_state": 1}, "order_seed is .*same random_state"),
        ({"max_iter": 2}, "max_iter is 2, not 1. Fit all parts"),
        ({"hashing": "balanced"}, "hashing is 'balanced', not 'clustered'"),
        ({"class_weight": {0: 2}}, "class_weight is {0: 2}, not None"),
    ):
        refused([part, fitted(**{"part": (1, 2)} | options)], match)
    X, y = blobs(60)
    for rows in ({"X": 2 * X}, {"X": X[:54], "y": y[:54]}):
        match = r"models\[1\] and models\[0\] were not fitted on the same rows"
        refused([part, fitted(**rows, part=(1, 2))], match)
    whole = fitted(random_state=1)
    refused([part, whole], r"models\[0\] is a part of a fit, and models\[1\] is not")
    refused([whole, part], r"models\[1\] is a part of a fit, and models\[0\] is not")
    trees = [DecisionTreeClassifier(max_depth=depth) for depth in (1, 2)]
    parts = [fitted(estimator=trees[i], part=(i, 2)) for i in range(2)]
    refused(parts, "estimator is DecisionTreeClassifier.max_depth=2.*not")


def test_classes_that_cannot_be_told_apart(fitted, blobs):
    X, y = blobs(90, n_classes=9)
    names = np.array(list("abcdefghi"))[y]
    parts = [fitted(X=X, y=names, part=(i, 4)) for i in range(4)]
    for part in parts:
        refused([part], "The classes '.' and '.' have the same buckets in all 1 rep")
        part.predict(X)
    merge(parts)


def test_a_part_that_is_none(fitted):
    for part in (
        (2, 2),
        (-1, 2),
        (0, 0),
        (0,),
        (0, 1, 2),
        (0.0, 2),
        (True, 2),
        ("a", 2),
    ):
        with pytest.raises(ValueError, match=r"part=.* is no share. Pass \(i, n\)"):
            fitted(part=part)
    for part in (2, [0, 2], "0/2"):
        with pytest.raises(ValueError, match="'part' parameter"):
            fitted(part=part)
    with pytest.raises(
        ValueError, match=r"\(0, 5\) asks for 5 shares of n_rep.*=4. De"
    ):
        fitted(part=(0, 5))
    for state in (None, np.random.RandomState(0)):
        with pytest.raises(ValueError, match="needs an integer as random_state"):
            fitted(part=(0, 2), random_state=state)
    fitted(part=(np.int64(1), 2), random_state=np.int32(3))


def test_what_goes_with_no_part(fitted, blobs):
    X, y = blobs(60)
    with pytest.raises(ValueError, match="max_bytes=999.*Merge.*call compress after"):
        fitted(part=(0, 2), max_bytes=999)
    with pytest.raises(ValueError, match="warm_start=True.*Merge the parts"):
        fitted(part=(0, 2), warm_start=True)
    model = MACHClassifier(part=(0, 2), random_state=0)
    with pytest.raises(
        ValueError, match="with partial_fit. Merge.*of the merged model"
    ):
        model.partial_fit(X, y, classes=range(6))
    with pytest.raises(ValueError, match=r"part=\(0, 2\) of the classifier.*best_para"):
        MACHClassifierCV(model).fit(X, y)
