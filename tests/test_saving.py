"""Models in files: all comes back and goes on the same; the rest is refused."""

import base64
import json
import os
import pickle
import zlib
from fractions import Fraction

import joblib
import numpy as np
import pytest
import scipy.sparse as sp
from helpers import PREDICTIONS, assert_same_model, needs_compilation, predictions
from numpy.testing import assert_allclose, assert_array_equal
from several import SIZES, planted
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB
from test_files import split

from sklearn_mach import MACHClassifier, MACHClassifierCV, _decoding, _saving, load
from sklearn_mach._files import read, write
from sklearn_mach._plain import decode, encode
from sklearn_mach._states import flatten
from sklearn_mach._weights import STORAGES, Linear

maps = pytest.mark.parametrize("mmap", [False, True])
storages = pytest.mark.parametrize("storage", STORAGES)


def assert_equal(one, other):
    """The same values of the same types, also in lists and objects of NumPy."""
    assert type(one) is type(other)
    if isinstance(one, np.ndarray):
        assert_array_equal(one, other, strict=True)
        # products of matrices may round otherwise in another order
        assert one.flags.f_contiguous == other.flags.f_contiguous
    elif sp.issparse(one):
        assert one.shape == other.shape
        assert_equal([one.data, one.indices, one.indptr], [
            other.data, other.indices, other.indptr
        ])  # fmt: skip
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    elif isinstance(one, dict):
        assert_equal(list(one), list(other))
        assert_equal(list(one.values()), list(other.values()))
    elif isinstance(one, np.random.RandomState):
        assert_equal(one.get_state(), other.get_state())
    else:
        assert one == other or (one != one and other != other)


def assert_same(loaded, model):
    one, other = (dict(sorted(flatten(vars(m)).items())) for m in (loaded, model))
    assert_equal(one, other)


def there_and_back(model, folder, mmap=True):
    model.save(folder / "model")
    return load(folder / "model", mmap=mmap)


def stored(model, storage):
    """The model with another storage of its weights."""
    fitted = model._fitted
    weights = fitted.model.scorer.storage.dense()
    link = fitted.model.scorer.link
    scorer = Linear.of(*weights, fitted.model.n_buckets, link, storage)
    model._fitted = fitted._replace(model=fitted.model.replace(scorer=scorer))
    return model


LABELS = {
    "integers": np.arange(6) - 2,
    "small": np.arange(6, dtype=np.uint8),
    "floats": np.arange(6) * 2.0,
    "strings": np.array(["a", "bé", "日本", "\U0001f600", "e" * 40, ""]),
    "objects": np.array(["x", "yy", "ž", "a\nb", "c", "d"], dtype=object),
    "dates": np.arange("2020-01", "2020-07", dtype="datetime64[M]"),
    "seconds": np.arange(6).astype("datetime64[s]"),
}


@maps
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_labels_come_back_and_are_predicted(blobs, tmp_path, labels, sparse, mmap):
    X, y = blobs(60, sparse=sparse)
    model = MACHClassifier(n_repetitions=3, n_buckets=3, random_state=0)
    model.fit(X, labels[y])
    loaded = there_and_back(model, tmp_path, mmap)
    assert_same(loaded, model)
    assert_equal(loaded.predict(X), model.predict(X))
    assert_equal(loaded.predict_topk(X[:1], 4), model.predict_topk(X[:1], 4))


@maps
@storages
@predictions
def test_all_predictions_are_the_same(blobs, tmp_path, call, storage, mmap):
    X, y = blobs(80, sparse=False)
    model = MACHClassifier(
        n_repetitions=3, n_buckets=3, random_state=0, logit_adjustment=0.5
    ).fit(X, y)
    stored(model, storage).calibrate(X, y)
    loaded = there_and_back(model, tmp_path, mmap)
    assert_equal(call(loaded, X), call(model, X))
    loaded.save(tmp_path / "again")
    assert_same(load(tmp_path / "again"), model)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("indicator", [np.asarray, sp.csr_matrix, sp.csr_array])
def test_several_labels(tmp_path, sparse, indicator):
    X, Y, _ = planted(sparse=sparse)
    Y = indicator(Y)
    model = MACHClassifier(**SIZES).fit(X, Y).calibrate(X, Y)
    loaded = there_and_back(model, tmp_path)
    assert_same(loaded, model)
    for name in ("predict", "predict_topk", "predict_proba", "staged_predict"):
        assert_equal(PREDICTIONS[name](loaded, X), PREDICTIONS[name](model, X))
    loaded.partial_fit(X, Y)
    assert_same(loaded, model.partial_fit(X, Y))


def test_names_of_features(blobs, tmp_path):
    pandas = pytest.importorskip("pandas")
    X, y = blobs(60, sparse=False)
    X = pandas.DataFrame(X, columns=[f"größe {j}" for j in range(X.shape[1])])
    model = MACHClassifier(n_repetitions=3, n_buckets=3, random_state=0).fit(X, y)
    loaded = there_and_back(model, tmp_path)
    assert_same(loaded, model)
    assert_equal(loaded.predict(X), model.predict(X))
    with pytest.raises(ValueError, match="names"):
        loaded.predict(X[X.columns[::-1]])


TABLE = np.array([[0, 1, 2], [1, 2, 3], [2, 3, 0], [3, 0, 1], [0, 2, 3], [1, 1, 1]])
PARAMETERS = {
    "array": {"hashing": TABLE},
    "columns": {"hashing": np.asfortranarray(TABLE)},
    "lists": {"hashing": TABLE.tolist()},
    "dict": {"class_weight": {k: 1 + k / 3 for k in range(6)}},
    "dict of NumPy": {
        "class_weight": {np.int64(k): np.float32(1 + k / 3) for k in range(6)}
    },
    "balanced": {"class_weight": "balanced"},
    "numbers of NumPy": {"alpha": np.float64(1e-4), "max_iter": np.int32(3)},
    "without tol": {"tol": None, "learning_rate": 0.1},
    "random": {"random_state": np.random.RandomState(3)},
    "truth": {"early_stopping": np.True_, "warm_start": True},
    "universal": {"hashing": "universal", "decoder": "mean"},
}


@pytest.mark.parametrize("parameters", PARAMETERS.values(), ids=PARAMETERS)
def test_parameters_come_back(blobs, tmp_path, parameters):
    X, y = blobs(60)
    model = MACHClassifier(
        **{"n_repetitions": 3, "n_buckets": 4, "random_state": 0} | parameters
    )
    model.fit(X, y)
    loaded = there_and_back(model, tmp_path)
    assert_equal(loaded.get_params(), model.get_params())
    assert_same(loaded, model)
    assert_same_model(clone(loaded).fit(X, y), clone(model).fit(X, y))


VALUES = {
    "nested": [1, (2.5, [None, {"a": (True,), 3: -0.0}]), "\ud800\0", 10**30],
    "floats": [float("nan"), float("-inf"), np.float32("nan"), np.float16(0.1)],
    "scalars": [np.bool_(1), np.uint8(255), np.int64(-(2**63)), np.str_("é")],
    "dates": [np.datetime64("2020-02-03T04", "h"), np.timedelta64("NaT", "25s")],
    "columns": [np.arange(6.0).reshape(2, 3).T, np.zeros((2, 3, 4), "<i2", order="F")],
    "matrix": [sp.random_array((5, 4), density=0.5, rng=0, format="csr")],
    "empty": [sp.csr_matrix((0, 3), dtype=np.float32), np.zeros((0, 2)), [], (), {}],
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_values_come_back(value):
    arrays = {}
    node = json.loads(json.dumps(encode(value, "x", arrays), allow_nan=False))
    assert_equal(decode(node, arrays), value)
    assert not arrays


@needs_compilation
@maps
@pytest.mark.parametrize("sparse", [False, True])
def test_loaded_models_go_on_as_the_model(blobs, tmp_path, sparse, mmap):
    X, y = blobs(1500, sparse=sparse)
    model = MACHClassifier(
        n_repetitions=3, n_buckets=3, max_iter=2, random_state=0, warm_start=True
    ).fit(X, y)
    path = tmp_path / "model"
    model.save(path)
    content = path.read_bytes()

    loaded = load(path, mmap=mmap)
    more = loaded.partial_fit(X[:200], y[:200])
    assert_same(more, pickle.loads(pickle.dumps(model)).partial_fit(X[:200], y[:200]))
    loaded = load(path, mmap=mmap).set_params(n_repetitions=4).fit(X, y)
    assert_same(loaded, model.set_params(n_repetitions=4).fit(X, y))
    assert path.read_bytes() == content


@needs_compilation
@pytest.mark.parametrize("kind", ["sparse", "dense", "float16", "several"])
def test_waiting_rows_of_partial_fit_come_back(blobs, tmp_path, kind):
    X, y = blobs(1500, sparse=kind in ("sparse", "several"))
    if kind == "float16":
        X = X.astype(np.float16)
    if kind == "several":
        y = np.eye(6, dtype=int)[y] | np.eye(6, dtype=int)[(y + 1) % 6]
    first, second, rest = slice(0, 300), slice(300, 500), slice(500, 1500)
    model = MACHClassifier(n_repetitions=3, n_buckets=3, random_state=0)
    classes = None if kind == "several" else range(6)
    model.partial_fit(X[first], y[first], classes=classes)
    model.partial_fit(X[second], y[second], sample_weight=np.linspace(1, 2, 200))
    assert len(model._fitted.memory.waiting) == 2
    loaded = there_and_back(model, tmp_path)
    assert_same(loaded, model)
    assert_same(
        loaded.partial_fit(X[rest], y[rest]), model.partial_fit(X[rest], y[rest])
    )
    assert_same(there_and_back(model, tmp_path), model)


@needs_compilation
def test_a_model_of_many_dense_features_has_the_same_metric(blobs, tmp_path):
    X, y = blobs(1500, 2300, sparse=False)
    model = MACHClassifier(n_repetitions=2, n_buckets=3, max_iter=1, random_state=0)
    model.partial_fit(X, y, classes=range(6))
    assert model._fitted.memory.seen.metric.directions is not None
    loaded = there_and_back(model, tmp_path)
    assert_same(loaded.partial_fit(X, y), model.partial_fit(X, y))


def test_mapped_models_are_pickled_and_copied(blobs, tmp_path):
    X, y = blobs(60)
    model = MACHClassifier(n_repetitions=3, n_buckets=3, random_state=0).fit(X, y)
    loaded = there_and_back(model, tmp_path)
    assert isinstance(loaded._fitted.model.scorer.storage.weights.base, np.memmap)
    joblib.dump(loaded, tmp_path / "joblib")
    for again in (pickle.loads(pickle.dumps(loaded)), joblib.load(tmp_path / "joblib")):
        assert_same(again, model)
        assert_same(
            again.partial_fit(X, y), pickle.loads(pickle.dumps(model)).partial_fit(X, y)
        )


def test_the_best_model_of_a_search(blobs, tmp_path):
    X, y = blobs(90)
    search = MACHClassifierCV(n_repetitions=3, n_buckets=(3,), cv=2, random_state=0)
    model = search.fit(X, y).best_estimator_
    loaded = there_and_back(model, tmp_path)
    assert_equal(loaded.decision_function(X), model.decision_function(X))
    assert loaded._fitted.model.scorer.storage.weights.flags.c_contiguous


def test_codes_of_the_decoder_come_from_the_file(blobs, tmp_path, monkeypatch):
    X, y = blobs(60)
    model = MACHClassifier(n_repetitions=3, n_buckets=3, random_state=0).fit(X, y)
    prepared = _decoding.prepare(model.bucket_table_, 3, model._fitted.model.offset)
    loaded = there_and_back(model, tmp_path)
    if prepared.codes.size:
        assert_equal(loaded._fitted.model._prepared, prepared)
        codes = loaded._fitted.model._prepared.codes
        while codes.base is not None and not isinstance(codes, np.memmap):
            codes = codes.base
        assert isinstance(codes, np.memmap)
    # another processor, which has no use for them
    monkeypatch.setattr(_saving, "has_lookup", lambda: False)
    monkeypatch.setattr(_decoding, "has_lookup", lambda: False)
    loaded = load(tmp_path / "model")
    assert not loaded._fitted.model._prepared.codes.size
    assert_equal(loaded.predict_topk(X[:1], 3), model.predict_topk(X[:1], 3))
    loaded.save(tmp_path / "plain")
    monkeypatch.undo()
    plain = load(tmp_path / "plain")
    assert_equal(plain._fitted.model._prepared, prepared)


@needs_compilation
@pytest.mark.parametrize("n_rows", [1, 30, 200])
def test_mapped_models_compile_nothing_anew(blobs, tmp_path, n_rows):
    from sklearn_mach import _logits, _topk

    X, y = blobs(200)
    model = MACHClassifier(n_repetitions=3, n_buckets=3, random_state=0).fit(X, y)
    loaded = there_and_back(model, tmp_path)
    model.predict(X[:n_rows])
    kernels = _logits._logits_csr, _topk._topk_each, _topk._topk_rows, _topk._topk_block
    before = [len(kernel.signatures) for kernel in kernels]
    loaded.predict(X[:n_rows])
    assert [len(kernel.signatures) for kernel in kernels] == before


@storages
def test_bytes_beside_the_weights_are_known(blobs, tmp_path, storage):
    X, y = blobs(60)
    model = MACHClassifier(n_repetitions=3, n_buckets=3, random_state=0).fit(X, y)
    known = _saving.saved_bytes(vars(model))
    stored(model, storage).save(tmp_path / "model")
    arrays = model._fitted.model.scorer.storage
    weights = sum(part.nbytes for part in arrays if isinstance(part, np.ndarray))
    beside = os.path.getsize(tmp_path / "model") - weights
    assert beside <= known <= beside + 3000


def test_safetensors_reads_the_arrays(blobs, tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    X, y = blobs(60)
    model = MACHClassifier(n_repetitions=3, n_buckets=3, random_state=0).fit(X, y)
    model.save(tmp_path / "model")
    found = library.load_file(tmp_path / "model")
    weights = found["storage.weights"].reshape(-1, 3, 3).transpose(1, 2, 0)
    assert_array_equal(weights, model.coef_)
    assert_array_equal(found["bucket_table_"], model.bucket_table_)
    assert_array_equal(found["classes_"], model.classes_)


# A file of version 1: rows of the identity matrix, labels a to e, decoder "log_mean".
VERSION_1 = (
    "c-qBQ%WmXE6zz^!%?`dG@`{Dk@~a&?LYhS+B-RLNq@-1p%jLEw)pn<<oX|ws4}8ENmdqADViHy?K>Ps83W"
    "+5@fW)mwI(~FdG!hb}Zn^5-Q>X5$uAMxa=yB~Jw4xH{SYm{n<7=mA_zFws*b(Q9VqT*aCZ*##mz0aDsX^h"
    "x>WWuV(i&wO5O_0x=7F%JIHw#DPQn1hX%KrE@s;L5bbaO^!mtqNidM@~iZkc<@XVP<>3mL)qBF;Z6%v%zv"
    "x3u$meyorAbEmGK=Pw5L|n9(Q?U!M=5!6Ze3mtBom&VFiBE9g8HkV#$4fe^YDqbv>#Z>XfJlP-sGhw(P17"
    "QYQv=Cba!w_ZIAavqll&;cMPwb)9#dg;$vipAlXyNblr;H+D<sU)goOS8!RRGr7UJ1)=G>^<VAfJ$;wvPU"
    "RDoblg{&Z%4Oi>BWlZta2neaHBxF;w1x9Mz(2`I|N-WB%URsk_D<DiXH#X%|nahoiHA|==TpJavDv5CZ5;"
    "m-8Ep0$r**t8$tOy-Sb*aH=h+FHs$`$?!Rni<6cuIoVy2NVf&Gb6Ml9WhPUyt_6hFP5F`APr>u?>Q>uGiM"
    "P0y9CC3c^^yMS!@Vf@7j4X0LA|q-;QSgGh<%r9NrCO|LEJZlJF)U%^3`%ibw9df8;63*@-Y8x1wSYnR}@W"
    "sP`Ts~}_>NqajH!x?4B+}VDT3yNh6w*yr*>YHjS@l@3chZu-ql`bChWNVhJ+dZ`oESPh=*{NRiDhq8(OGn"
    "TYfj0|wRSoJS7d1s8XwN+)2xge~V<F&vaLfk5?i4%PRy$%<eQsP6O(7w+#(tY)rHPH9!)Dd@cc|A68{<Q3"
    "J6A0c+Es3<H;v~(n8w>CW;s9CQ}^)HS3ZNFZdaMAcm@2VO4MY&7;6fnnR!p^x@HeM>>k9n!Gd0ed7=G71>"
    "B8(PeE50LTs)R5V1-~?ag9w(`lksTd)SpFi-&KQF~)M>b&~!ez)Geql;PGEV@lpZ|d(Fy(&h*7<J(N2;0T"
    "MZ|BAxl!tn|=5n*9(5OF)Bk0?r#A<a4nRWCV*i<?oPdzvC7K);usxHT;PjN(^n{-HQHs6aP@mxR99D^|JX"
    "9>qFK;gn0QPGTZ)MJ9Lgh!@$2U8Teew=ifc0{*NGk13p#fcjvnyA;bx-?%TJ(gh10t{}DYL<ug`3?eq2SJ"
    "*+p%?Z7tZQg5jqiqT9F3WP#f8tP9+Ropy;R<gl1b-=<>v66V`@GhCr>@i`1|>P`y7wopa1&yH~4=!{qgNT"
    "KlryFyzy^OetC8q{4_iH{?EVe{wUXXAHR5W@@@O#=Z`M#?_PsU{qM{5iITqp`G;1n_9*-}AX7ReSF+cZrz"
    "`)?;_t2emEk{`Ob#Z~Df|v_Mshkim<~enz5|#h|KIo*A|9FC"
)


def test_files_of_version_1_load(tmp_path):
    path = tmp_path / "model"
    path.write_bytes(zlib.decompress(base64.b85decode(VERSION_1)))
    model = load(path, verify=True)
    X, y = np.eye(5, dtype=np.float32), np.array(list("abcde"))
    assert_array_equal(model.predict(X), y)
    scores = [0, -116.85246, -416.13446, -270.57391, -362.55136]
    assert_allclose(model.decision_function(X)[0], scores, rtol=1e-5)
    model.partial_fit(X, y)


# Refused ------------------------------------------------------------------------------


def test_what_is_not_saved_is_named_before_a_file_is_touched(blobs, tmp_path):
    X, y = blobs(60)
    path, sizes = tmp_path / "model", dict(n_repetitions=3, n_buckets=3)
    with pytest.raises(NotFittedError):
        MACHClassifier().save(path)
    base = MACHClassifier(LogisticRegression(), **sizes, random_state=0).fit(X, y)
    with pytest.raises(
        TypeError, match="LogisticRegression.*joblib.dump, pickle or sk"
    ):
        base.save(path)
    model = MACHClassifier(**sizes, random_state=0).fit(X, y)
    with pytest.raises(TypeError, match="LogisticRegression.*joblib"):
        clone(model).fit(X, y).set_params(estimator=LogisticRegression()).save(path)
    fitted = clone(model).fit(X, y)
    fitted.classes_ = np.array([Fraction(k, 7) for k in range(6)])
    with pytest.raises(TypeError, match=r"classes_ .*Fraction.*Use joblib.dump"):
        fitted.save(path)
    with pytest.raises(TypeError, match="classes_ .*NUL"):
        labels = np.array(["a\0", "b", "c", "d", "e", "f"], dtype=object)
        clone(model).fit(X, labels[y]).save(path)
    with pytest.raises(TypeError, match="random_state holds RandomState.*Use joblib"):
        state = np.random.RandomState(np.random.PCG64(0))
        clone(model).fit(X, y).set_params(random_state=state).save(path)
    model.notes = "mine"
    with pytest.raises(TypeError, match="attribute notes"):
        model.save(path)
    assert os.listdir(tmp_path) == []


def test_callbacks_are_left_out(blobs, tmp_path):
    callback = pytest.importorskip("sklearn.callback")
    X, y = blobs(60)
    model = MACHClassifier(n_repetitions=2, n_buckets=3, random_state=0)
    model.set_callbacks(callback.ScoringMonitor(scoring="accuracy")).fit(X, y)
    loaded = there_and_back(model, tmp_path)
    assert not hasattr(loaded, "_skl_callbacks")
    assert_equal(loaded.predict(X), model.predict(X))


@pytest.fixture
def saved(blobs, tmp_path):
    """A file, its arrays and values, of a model that has all there is."""
    X, y = blobs(60)
    model = MACHClassifier(
        n_repetitions=3, n_buckets=3, random_state=0, logit_adjustment=0.5
    ).fit(X, y)
    model.calibrate(X, y).partial_fit(X, y)
    model.save(tmp_path / "model")
    content = read(tmp_path / "model", mmap=False)
    return tmp_path / "model", content.arrays, content.values


def refused(path, match):
    for mmap in (False, True):
        with pytest.raises(ValueError, match=f"(?s)cannot be loaded.*{match}") as info:
            load(path, mmap=mmap)
        assert str(path) in str(info.value)


def damage(path, name):
    """Change the last byte of an array."""
    header, data = split(path.read_bytes())
    content = bytearray(path.read_bytes())
    end = header[name]["data_offsets"][1]
    content[len(content) - len(data) + end - 1] ^= 1
    path.write_bytes(content)


def test_damaged_arrays_are_named(saved, monkeypatch):
    path = saved[0]
    whole = path.read_bytes()
    for name in saved[1]:
        path.write_bytes(whole)
        damage(path, name)
        refused(path, f"'{name}' is damaged")
    # of weights that are many, only where they are read anyway, or if asked for
    monkeypatch.setattr(_saving, "_LIGHT_BYTES", 10)
    for name in saved[1]:
        path.write_bytes(whole)
        damage(path, name)
        for options in ({"verify": True}, {"mmap": False}):
            with pytest.raises(ValueError, match=f"'{name}' is damaged"):
                load(path, **options)
        if name.startswith("storage."):
            load(path)
            load(path, mmap=False, verify=False)
        else:
            refused(path, "is damaged")
    path.write_bytes(whole[: len(whole) // 2])
    refused(path, "truncated")


FAR = np.iinfo(np.int32).max // 2
CHANGES = [  # what a hostile file may have in place of an array
    ("bucket_table_", lambda a: np.where(a == 2, 3, a).astype(a.dtype)),
    ("bucket_table_", lambda a: a[:5]),
    ("bucket_table_", lambda a: a[:, :2]),
    ("bucket_table_", lambda a: a.astype(np.int8)),
    ("bucket_table_", lambda a: a.astype(np.uint64)),
    ("bucket_table_", lambda a: a.astype(np.float32)),
    ("storage.weights", lambda a: a[:-1]),
    ("storage.weights", lambda a: a[:, :-1]),
    ("storage.weights", lambda a: a.astype(np.float64)),
    ("storage.weights", lambda a: a.ravel()),
    ("storage.intercepts", lambda a: a[:-1]),
    ("storage.intercepts", lambda a: a.astype(np.int32)),
    ("classes_", lambda a: a[:5]),
    ("classes_", lambda a: a[:, None]),
    ("classes_", lambda a: a[:0]),
    ("_offset", lambda a: a[:5]),
    ("_offset", lambda a: a.astype(np.float64)),
    ("_offset", lambda a: a * np.float32("nan")),
    ("_scalars", lambda a: a[:2]),
    ("_class_weights", lambda a: a[:2]),
    ("prepared.codes", lambda a: a[:, :, :32]),
    ("prepared.codes", lambda a: a[:0]),
    ("prepared.codes", lambda a: a[:, :2]),
    ("prepared.codes", lambda a: a.astype(np.uint16)),
    ("prepared.levels", lambda a: a + np.uint8(32)),
    ("prepared.levels", lambda a: a[:2]),
    ("prepared.levels", lambda a: a[:0]),
    ("prepared.bounds", lambda a: a[:2]),
    ("_seen.frequency", lambda a: a[:2]),
    ("_seen.squares", lambda a: a.astype(np.float32)),
    ("_waiting.0.0.indices", lambda a: a + FAR),
    ("_waiting.0.0.indices", lambda a: a - 5),
    ("_waiting.0.0.indices", lambda a: a[:-1]),
    ("_waiting.0.0.indices", lambda a: a[::-1].copy()),
    ("_waiting.0.0.indices", lambda a: a.astype(np.float32)),
    ("_waiting.0.0.indptr", lambda a: a[::-1].copy()),
    ("_waiting.0.0.indptr", lambda a: a * 2),
    ("_waiting.0.0.indptr", lambda a: a[:-1]),
    ("_waiting.0.0.indptr", lambda a: a - np.int32(1)),
    ("_waiting.0.0.data", lambda a: a.astype(np.int32)),
    ("_waiting.0.0.data", lambda a: a * np.float32("nan")),
    ("_waiting.0.1.0", lambda a: a * 3),
    ("_waiting.0.1.0", lambda a: a[::-1].copy()),
    ("_waiting.0.1.1", lambda a: a + 1),
    ("_waiting.0.1.1", lambda a: a - 1),
    ("_waiting.0.1.1", lambda a: a.astype(np.int64)),
    ("_waiting.0.2", lambda a: a[:-1]),
    ("_waiting.0.2", lambda a: -a),
]


@pytest.mark.parametrize("case", CHANGES, ids=lambda case: case[0])
def test_hostile_arrays_are_refused(saved, case):
    path, arrays, values = saved
    name, change = case
    if name.startswith("prepared.") and values["prepared"] is None:
        pytest.skip("this processor has no look-ups")
    write(path, arrays | {name: change(arrays[name])}, values)
    refused(path, "")


STATE_CHANGES = {
    "n_features_in_": [0, -1, 13, 2**70, "12", True, 12.0, None],
    "n_repetitions_": [0, 4, 2**63],
    "n_buckets_": [0, 2, 2**63, None],
    "n_iter_": [-1, "5"],
    "estimator": ["SVC", 3],
    "device_": [None, 3],
    "_link": ["identity", ["list", []], None],
    "_several": [1, None, True],
    "_chance": ["1", None],
    "logit_adjustment_": [None, ["list", []]],
    "_label_format": [
        "ndarray", ["tuple", ["csr_array", "O"]], ["tuple", ["load_npz", "<i8"]]
    ],
    "t_": [-1, None, 1.5],
    "_order_seed": [None, -1],
    "_factor": ["x"],
    "_seen": [["Seen", [1]], ["Metric", [None] * 4], 3],
    "_waiting": [None, ["list", [3]], ["list", [["tuple", [1, 2, 3]]]]],
    "classes_": [
        5, ["list", [1, 2]], ["array", "missing"], ["array"], ["array", ["classes_"]],
        ["eval", "1"], ["__import__", "os"], [], [[]], {"a": 1},
        ["strings", "classes_"], ["objects", "bucket_table_"], ["array", "_offset"],
        ["dates", "classes_", "O"], ["dates", "classes_", "<M8[parsec]"],
        ["number", "<c16", 1], ["number", "|i1", 300], ["number", "<f8", "1"],
        ["float", "1e5"], ["dict", [1], []], ["dict", [["list", []]], [1]],
        ["csr_array", [1, -1], []], ["RandomState", None, 0, 0, 0.0],
    ],
    "feature_names_in_": [["list", ["a"]], ["array", "classes_"]],
}  # fmt: skip


@pytest.mark.parametrize("name", STATE_CHANGES)
def test_hostile_values_are_refused(saved, name):
    path, arrays, values = saved
    for node in STATE_CHANGES[name]:
        state = values["state"] | {name: node}
        write(path, arrays, values | {"state": state})
        refused(path, "")


@pytest.mark.parametrize("name, value", [("decoder", "max"), ("batch_size", -1)])
def test_parameters_that_are_none_are_refused(saved, name, value):
    path, arrays, values = saved
    with pytest.raises(ValueError, match=f"'{name}' parameter"):
        load(path).set_params(**{name: value}).save(path)
    write(path, arrays, values | {"state": values["state"] | {name: value}})
    with pytest.raises(ValueError, match=f"'{name}' parameter"):
        load(path)


def test_missing_and_unknown_parts_are_named(saved):
    path, arrays, values = saved
    optional = {"_label_format", "_waiting", "_seen"}
    optional |= {"checkpoint", "part"}  # not in files of version 1
    for name in values["state"].keys() - optional:
        state = {key: node for key, node in values["state"].items() if key != name}
        write(path, arrays, values | {"state": state})
        refused(path, f"lacks .*'{name}'")
    write(path, arrays, values | {"state": values["state"] | {"__class__": 1}})
    refused(path, "'__class__'.*, which no model has")
    write(path, arrays | {"more": np.zeros(3)}, values)
    refused(path, "nothing belongs to its arrays .'more'")
    for other in (None, [], {}, {"state": {}}, values | {"more": 1}):
        write(path, arrays, other)
        refused(path, "does not hold")


def test_unknown_storages_are_refused(saved):
    path, arrays, values = saved
    kind, fields = values["storage"]
    for storage in (
        None, [], [kind], ["float8", fields], [["list"], fields], [kind, None],
        [kind, {}], [kind, fields | {"more": 1}], [kind, dict.fromkeys(fields, "x")],
        [kind, dict.fromkeys(fields, 1)],
    ):  # fmt: skip
        write(path, arrays, values | {"storage": storage})
        refused(path, "")


def test_deep_values_are_refused(saved):
    path, arrays, values = saved
    node = None
    for _ in range(400):
        node = ["list", [node]]
    for name in ("classes_", "verbose"):
        write(path, arrays, values | {"state": values["state"] | {name: node}})
        refused(path, "")


def test_random_states_out_of_bounds_are_refused():
    key = np.zeros(624, np.uint32)
    for state in ((key, 625), (key, -1), (key[1:], 0), (key.astype(float), 0)):
        with pytest.raises(ValueError):
            decode(["RandomState", ["array", "k"], state[1], 0, 0.0], {"k": state[0]})


def test_characters_that_do_not_exist_are_refused(saved):
    path, arrays, values = saved
    state = values["state"] | {"classes_": ["strings", "classes_"]}
    points = np.full((6, 2), 65, np.uint32)
    points[3, 1] = 0x110000
    write(path, arrays | {"classes_": points}, values | {"state": state})
    refused(path, "characters")


# Other ways to save -------------------------------------------------------------------


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("base", [None, MultinomialNB(), LogisticRegression()])
def test_skops_saves_models_with_and_without_a_base_estimator(
    blobs, tmp_path, base, sparse
):
    io = pytest.importorskip("skops.io")
    X, y = blobs(60, sparse=sparse)
    X = abs(X)
    model = MACHClassifier(base, n_repetitions=3, n_buckets=3, random_state=0).fit(X, y)
    io.dump(model, tmp_path / "model")
    names = {"_classifier.MACHClassifier", "_steps.Seen", "_dense.Metric"}
    known = {f"sklearn_mach.{name}" for name in names}
    trusted = io.get_untrusted_types(file=tmp_path / "model")
    assert set(trusted) <= known
    loaded = io.load(tmp_path / "model", trusted=trusted)
    assert_array_equal(loaded.decision_function(X), model.decision_function(X))
    assert_array_equal(loaded.predict_topk(X[:1], 4), model.predict_topk(X[:1], 4))
    if base is None:
        assert_same(loaded.partial_fit(X, y), model.partial_fit(X, y))
