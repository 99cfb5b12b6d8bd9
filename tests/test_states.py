"""Saved models: pickles, joblib's files and maps, and those of earlier versions."""

import base64
import io
import pickle
import zlib

import joblib
import numpy as np
import pytest
from helpers import assert_same_model, assert_state_is_plain
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB

from sklearn_mach import MACHClassifier

# A model of five rows, one of each class, with the attributes that it had before there
# was a `Model`: pickled, compressed and encoded.
OLD = (
    "c-pO1TZmgl7|vz0xtPS2wpxpbmljr`5ie*fk{mZJ(Hu4ptre`wFga(EbFwGr#B=8C8ZY#g-MTOj!"
    "cHw(i!6w)AP6GTQgQOoii_xr2#P*P1*_~s`=HQ16#dU6Tcf01gw8`|=ASwLeDnR^eAz#8#E6GvV;"
    "j9Gi(uDAO{^I?q*>VW%$iAD&a#t_7oRBp6IkH)9N@3=ah4<=HJg|^F0ZhRja<?q)TE|kdt8mOq>Z"
    "Y+HbtnM#SQEkrd{VOsad{9iA!|O;yTeBJvb#{Id#+|*yd~uh9*T=Z@|7Lu_<RG*ryI>qdJ*3HNuS"
    "y%SgD85V@GjNTP{fL?$HW>H{o>t(Jj#Db#N)RmD^@kY~OmH%F;s@ls*a!)I4+D{f_3NM^N>N1awH"
    "06EXrO=HW{ac~<{bFmf-;DeKI2JJ02X3L|H?I6v-cAaoF#?q2DG(*g~L4lLh40fB46uT5Mj@qc<R"
    "6U5NU2N-)Tmk56h{dOgTXj4+&cb;FQ{N>XGHn#(O~|}3=j>+NZ?@V{Ajc)Srf*RbyDn~XmInGYV4"
    "k|ZMxjP5CU*kGw%*&a0NH1GF<j+``7S=LhSk_CH|}IHowi#f_#|R(<MXfeR--KZ7_U?+<-efGA2m"
    "dIb-p;hN@=*?NBVuV-;eZr4%>s<49EfnN=RMNg`CDEfl$;^VYyFkrninLu37|f;|}BQ0J^c|3UD<"
    "#$Blbg#J_(K@GC<B-zYIg!hkm%4oAWgR|0t&wy+zN<EH=W4Grifiw2A84FfYPq0|PrGji8rPFbs$"
    "2;<19)jSgDDBhDjls~Gqe5ey3RDXp#TmzJv>@ie(Xf0TujLwvm6FU>#qt%XBeECVG{%*2+{<(ePk"
    "-|=8%hZaPSoe<Dbnv_=WyiW7oI9jkp53iHy7;{~-S|fAdGM0>@nWhwv3yARnEfI4o-HfMZHwaK-r"
    "vP9CrirL8{ZRO{Zvuz`!w3!KKX|DVPaC*(fw95&wL@?-X80|@KH&5f2AXyy6b1Ll;5R9o;@ux$I{"
    "&spI4NpOC7P)PIb!%FN?<Uj`CX}+g*QaSy|E@At|~69tb=_jkJbxkc7!I^To}VPJNmG%s!RhvtdG"
    "<3!TaTx$s@SQ=SyJyuO?-9TWMZM|P~{b6hYZ<Pq?u@`tH?X%-76;7J?)?T?;QqhL2+OuK{S1wLLX"
    "T<BHLxSfsmv;|>fYcY{peGhYh%V-$oVxkw=tXwrTRAlA<DWU6=r9$}ua1m4k50p+1vcvG4!6ly`D"
    "!ka7q+Jh%_7_4!+x3fI{hA<sb4}^5U-hv_-@iuszO@#07Yb|jL6*ZDgZ=jYD7c#QtGT}cFDQtF"
)
OLD_ROW = [-0.009519338607788086, -3.666675090789795, -3.58381986618042]
OLD_ROW += [-3.4665732383728027, -5.284138202667236]


def test_a_model_of_an_earlier_version_predicts_and_goes_on():
    model = pickle.loads(zlib.decompress(base64.b85decode(OLD)))
    X, y = np.eye(5, dtype=np.float32), np.arange(5)
    assert_array_equal(model.predict_topk(X, 2)[:, 1], [3, 0, 0, 2, 2])
    model.partial_fit(X, y)
    # what the version that made it found; other processors may fuse sums otherwise
    assert_allclose(model.decision_function(X)[0], OLD_ROW, rtol=1e-5)
    again = pickle.loads(pickle.dumps(model))
    assert_same_model(again.partial_fit(X, y), model.partial_fit(X, y))


def test_saved_attributes_are_plain_arrays_and_numbers(blobs):
    X, y = blobs(60)
    model = MACHClassifier(n_repetitions=3, n_buckets=3, random_state=0).fit(X, y)
    assert model.device_ == "cpu"

    assert_state_is_plain(model)
    stream = io.BytesIO()
    np.savez(stream, *[v for v in vars(model).values() if isinstance(v, np.ndarray)])


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("base", [None, LogisticRegression()])
@pytest.mark.parametrize("how", ["pickle", "joblib", "memory map"])
def test_saved_models_predict_the_same(blobs, base, sparse, how, tmp_path):
    X, y = blobs(60, sparse=sparse)
    model = MACHClassifier(base, n_repetitions=3, n_buckets=3, random_state=0)
    model.fit(X, np.array(list("abcdef"))[y])
    if how == "pickle":
        loaded = pickle.loads(pickle.dumps(model))
    else:
        path = tmp_path / "model.joblib"
        joblib.dump(model, path)
        loaded = joblib.load(path, mmap_mode="r" if how == "memory map" else None)
    assert_array_equal(loaded.predict(X), model.predict(X))
    assert_array_equal(loaded.decision_function(X), model.decision_function(X))
    assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    assert_array_equal(loaded.predict_topk(X, k=4), model.predict_topk(X, k=4))


def test_memory_mapped_models_can_be_grown_and_trained_further(blobs, tmp_path):
    X, y = blobs(60)
    model = MACHClassifier(
        n_repetitions=3, n_buckets=3, random_state=0, warm_start=True
    ).fit(X, y)
    joblib.dump(model, tmp_path / "model.joblib")
    loaded = joblib.load(tmp_path / "model.joblib", mmap_mode="r")
    for one in (model, loaded):
        one.set_params(n_repetitions=4).fit(X, y)
    assert_same_model(loaded, model)
    loaded = joblib.load(tmp_path / "model.joblib", mmap_mode="r")
    model = joblib.load(tmp_path / "model.joblib")
    assert_same_model(loaded.partial_fit(X, y), model.partial_fit(X, y))


@pytest.mark.parametrize("base", [None, MultinomialNB()])
def test_models_mapped_to_a_file_leave_it_as_it_is(blobs, tmp_path, base):
    X, y = blobs(60)
    X, path = abs(X), tmp_path / "model.joblib"
    model = MACHClassifier(base, n_repetitions=3, n_buckets=3, random_state=0)
    joblib.dump(model.fit(X, y), path)
    content = path.read_bytes()
    mapped = joblib.load(path, mmap_mode="r+")
    if base is None:
        assert isinstance(mapped.coef_.base, np.memmap)
    mapped.partial_fit(X, y).calibrate(X, y).predict(X)
    mapped.set_params(n_repetitions=4, warm_start=True).fit(X, y)
    mapped.set_params(warm_start=False).fit(X, y)
    assert path.read_bytes() == content
    mapped = joblib.load(path, mmap_mode="r+")
    model.partial_fit(X, y)
    scores = mapped.partial_fit(X, y).decision_function(X)
    assert_array_equal(scores, model.decision_function(X))


@pytest.mark.parametrize("decoder", ["log_mean", "mean"])
def test_models_of_a_time_without_offsets_and_chance_predict(blobs, decoder):
    X, y = blobs(n_classes=9)
    parameters = dict(hashing="balanced", decoder=decoder, random_state=0)
    model = MACHClassifier(n_repetitions=4, n_buckets=3, **parameters).fit(X, y)
    state = model.__getstate__()
    del state["_offset"], state["_chance"]
    old = MACHClassifier()
    old.__setstate__(state)
    assert_array_equal(old.predict_topk(X, 3), model.predict_topk(X, 3))
    assert_array_equal(old.predict_proba(X), model.predict_proba(X))


def test_models_of_a_time_without_sums_of_rows_predict_and_grow(blobs):
    X, y = blobs(60)
    model = MACHClassifier(n_repetitions=3, n_buckets=3, random_state=0).fit(X, y)
    state = model.__getstate__()
    for name in ("logit_adjustment", "logit_adjustment_", "_offset", "_class_weights"):
        del state[name]
    for name in ("_seen", "_waiting"):
        del state[name]

    def old():
        loaded = MACHClassifier.__new__(MACHClassifier)
        loaded.__setstate__(state.copy())
        return loaded

    assert repr(old()) == repr(model)
    assert old().logit_adjustment_ == 0
    assert_array_equal(old().predict_proba(X), model.predict_proba(X))
    assert_same_model(clone(old()).fit(X, y), model)
    more = {"n_repetitions": 5, "warm_start": True}
    whole = clone(model).set_params(n_repetitions=5).fit(X, y)
    assert_same_model(old().set_params(**more).fit(X, y), whole)
    for method in ("partial_fit", "calibrate"):
        with pytest.raises(
            ValueError, match=f"older version.*{method} needs. Call fit"
        ):
            getattr(old(), method)(X, y)
        getattr(old().fit(X, y), method)(X, y)
