"""The learners that ``bench_peers.py`` compares: how each fits and names its best five.

ovr (LinearSVC one-vs-rest), sgd (logistic SGDClassifier one-vs-rest), ecoc and nb are
scikit-learn's. napkinxc (its label tree) and br (its binary relevance) are in the
package napkinxc, parabel and bonsai in omikuji, fasttext (softmax) and fasttext_hs
(hierarchical softmax) in fasttext-wheel, and pecos in libpecos; the last two packages
need numpy 1. vw is Vowpal Wabbit (vowpalwabbit) with its probabilistic label tree,
``--plt``: of its reductions for thousands of classes the one that names the best five
and takes several labels. mach_pairs gives MACHClassifier a row of one label for each
pair of row and label. mach_small is MACHClassifier and its ``compress``, to
``--small-mb`` or to a twentieth.

Each has the settings of its library, unless a comment says otherwise.
"""

import os
from pathlib import Path

import numpy as np


def top5(score, labels, X):
    """Best five by a dense score function, 500 rows at a time."""
    best = []
    for first in range(0, X.shape[0], 500):
        scores = score(X[first : first + 500])
        part = np.argpartition(-scores, 4, axis=1)[:, :5]
        order = np.argsort(-np.take_along_axis(scores, part, axis=1), axis=1)
        best.append(labels[np.take_along_axis(part, order, axis=1)])
    return np.concatenate(best)


def padded(lists):
    """Lists of labels, best first, as an array with five columns."""
    return np.array([([*map(int, row)] + [-1] * 5)[:5] for row in lists])


def files_bytes(path):
    """Bytes of a file, or of all files of a folder."""
    path = Path(path)
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def columns(A):
    """The columns that each row of a CSR matrix stores."""
    return np.split(A.indices, A.indptr[1:-1])


# Each of these takes rows X and the CSR indicator Y of their labels, prepares what
# needs no clock and returns a function that fits. That one returns two: the best five
# labels of rows, and the bytes of the model.


def mach(X, Y, job, by_pair=False, small=False):
    from sklearn_mach import MACHClassifier

    params = job["params"] | {"random_state": job["seed"], "n_jobs": job["threads"]}

    def trained(model, X, Y):
        if by_pair:
            X = X[np.repeat(np.arange(X.shape[0]), np.diff(Y.indptr))]
        one_label = by_pair or not job["several"]
        return model.fit(X, Y.indices if one_label else Y)

    few = X[:300, :1000]
    first = trained(MACHClassifier(random_state=0, max_iter=1), few, Y[:300])
    if small:
        first = first.compress(max_bytes=first.model_bytes_ // 2)
    first.predict_topk(few)

    def fit():
        model = trained(MACHClassifier(**params), X, Y)
        if small:
            mb = job["small_mb"] or model.model_bytes_ / 20e6
            model = model.compress(max_bytes=int(1e6 * mb))
        return lambda X: model.predict_topk(X, k=5), lambda: model.model_bytes_

    return fit


def mach_pairs(X, Y, job):
    return mach(X, Y, job, by_pair=True)


def mach_small(X, Y, job):
    return mach(X, Y, job, small=True)


def coef_bytes(estimators):
    """Bytes of binary linear models; one for a label without rows has no weights."""
    return sum(e.coef_.nbytes + 8 for e in estimators if hasattr(e, "coef_"))


def ovr(X, Y, job):
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.svm import LinearSVC

    y = Y if job["several"] else Y.indices

    def fit():
        model = OneVsRestClassifier(LinearSVC(random_state=job["seed"])).fit(X, y)
        return (
            lambda X: top5(model.decision_function, model.classes_, X),
            lambda: coef_bytes(model.estimators_),
        )

    return fit


def sgd(X, Y, job):
    from sklearn.linear_model import SGDClassifier
    from sklearn.multiclass import OneVsRestClassifier

    params = {"loss": "log_loss", "random_state": job["seed"]}

    def fit():
        if job["several"]:
            model = OneVsRestClassifier(SGDClassifier(**params), n_jobs=job["threads"])
            model.fit(X, Y)
            size = coef_bytes(model.estimators_)
        else:
            model = SGDClassifier(**params, n_jobs=job["threads"]).fit(X, Y.indices)
            size = model.coef_.nbytes + model.intercept_.nbytes
        return lambda X: top5(model.decision_function, model.classes_, X), lambda: size

    return fit


def ecoc(X, Y, job):
    from sklearn.metrics.pairwise import euclidean_distances
    from sklearn.multiclass import OutputCodeClassifier
    from sklearn.svm import LinearSVC

    seed = job["seed"]

    def fit():
        base = LinearSVC(random_state=seed)
        model = OutputCodeClassifier(base, code_size=0.25, random_state=seed)
        model.fit(X, Y.indices)

        def score(X):  # predict of scikit-learn takes the smallest distance
            outputs = [e.decision_function(X) for e in model.estimators_]
            return -euclidean_distances(np.transpose(outputs), model.code_book_)

        return (
            lambda X: top5(score, model.classes_, X),
            lambda: (
                model.code_book_.nbytes
                + sum(e.coef_.nbytes + 8 for e in model.estimators_)
            ),
        )

    return fit


def nb(X, Y, job):
    from sklearn.naive_bayes import MultinomialNB

    def fit():
        model = MultinomialNB(alpha=0.01).fit(X, Y.indices)
        return (
            lambda X: top5(model.predict_joint_log_proba, model.classes_, X),
            lambda: model.feature_log_prob_.nbytes + model.class_log_prior_.nbytes,
        )

    return fit


def napkinxc(X, Y, job, kind="PLT"):
    from napkinxc import models

    folder = os.path.join(job["scratch"], "model")
    rows = [labels.tolist() for labels in columns(Y)]
    params = {"seed": job["seed"]} if kind == "PLT" else {}

    def fit():
        model = getattr(models, kind)(
            folder, threads=job["threads"], verbose=False, **params
        )
        model.fit(X, rows)
        return (
            lambda X: padded(model.predict(X, top_k=5)),
            lambda: files_bytes(folder),
        )

    return fit


def br(X, Y, job):
    return napkinxc(X, Y, job, kind="BR")


def pecos(X, Y, job):
    from pecos.xmc import Indexer, LabelEmbeddingFactory
    from pecos.xmc.xlinear.model import XLinearModel

    threads, folder = job["threads"], os.path.join(job["scratch"], "pecos")

    def fit():
        features = LabelEmbeddingFactory.create(Y, X, method="pifa", threads=threads)
        tree = Indexer.gen(features, seed=job["seed"], threads=threads)
        XLinearModel.train(X, Y, C=tree, threads=threads).save(folder)
        # Many times faster than the model as it was trained.
        model = XLinearModel.load(folder, is_predict_only=True)

        def topk(X):
            P = model.predict(X, only_topk=5, threads=threads).tocsr()
            rows = [slice(*P.indptr[i : i + 2]) for i in range(P.shape[0])]
            return padded(P.indices[row][np.argsort(-P.data[row])] for row in rows)

        return topk, lambda: files_bytes(folder)

    return fit


def parabel(X, Y, job, bonsai=False):
    import omikuji

    head = f"{{}} {X.shape[1]} {Y.shape[1]}\n"
    file = write_rows(X, Y, job, head, "{} {}", "{}:{:g}")
    folder = os.path.join(job["scratch"], "trees")
    settings = omikuji.Model.default_hyper_param()
    if bonsai:  # the settings that its authors give for Bonsai
        settings.cluster_balanced, settings.cluster_k, settings.max_depth = (
            False,
            100,
            3,
        )

    def fit():
        model = omikuji.Model.train_on_data(file, settings, n_threads=job["threads"])

        def topk(X):
            found = (model.predict(list(pairs(row)), top_k=5) for row in X)
            return padded([label for label, _ in best] for best in found)

        return topk, lambda: model.save(folder) or files_bytes(folder)

    return fit


def bonsai(X, Y, job):
    return parabel(X, Y, job, bonsai=True)


def fasttext(
    X, Y, job, loss="softmax"
):  # a bag of columns, without values; steps as in its tutorial
    import fasttext

    file = write_rows(X, Y, job, "", "__label__{} {}", "{}")
    path = os.path.join(job["scratch"], "model.bin")

    def fit():
        model = fasttext.train_supervised(
            file,
            lr=0.5,
            epoch=25,
            loss=loss,
            thread=job["threads"],
            seed=job["seed"],
            verbose=0,
        )

        def topk(X):
            rows = [" ".join(map(str, row)) for row in columns(X)]
            found = model.predict(rows, k=5)[0]
            return padded([label[len("__label__") :] for label in row] for row in found)

        return topk, lambda: model.save_model(path) or files_bytes(path)

    return fit


def fasttext_hs(X, Y, job):
    return fasttext(X, Y, job, loss="hs")


def vw(X, Y, job):  # three passes, as its own demonstrations of label trees take
    from vowpalwabbit import Workspace

    file = write_rows(X, Y, job, "", "{} | {}", "{}:{:g}")
    model, cache, test, found = (
        os.path.join(job["scratch"], name) for name in ("model", "cache", "test", "out")
    )
    always = ["--quiet", "--loss_function", "logistic"]

    def fit():
        tree = ["--plt", str(Y.shape[1]), "-b", "28", "--holdout_off"]
        passes = ["--passes", "3", "--cache_file", cache]
        Workspace(arg_list=[*always, *tree, *passes, "-d", file, "-f", model]).finish()

        def topk(X):
            with open(test, "w") as rows:
                for row in X:
                    items = " ".join("{}:{:g}".format(*pair) for pair in pairs(row))
                    rows.write(f"| {items}\n")
            best = ["-t", "-i", model, "--top_k", "5", "-d", test, "-p", found]
            Workspace(arg_list=[*always, *best]).finish()
            lines = Path(found).read_text().splitlines()
            pieces = (
                [pair.split(":")[0] for pair in line.split(",")] for line in lines
            )
            return padded([label for label in row if label] for row in pieces)

        return topk, lambda: files_bytes(model)

    return fit


def pairs(row):
    """Columns and values of a sparse row, as Python numbers."""
    return zip(row.indices.tolist(), row.data.tolist(), strict=True)


def write_rows(X, Y, job, head, line, item):
    """A text file of the rows that have features and labels."""
    path = os.path.join(job["scratch"], "train.txt")
    used, labels = np.flatnonzero(np.diff(X.indptr) * np.diff(Y.indptr)), columns(Y)
    with open(path, "w") as file:
        file.write(head.format(used.size))
        for i in used:
            items = " ".join(item.format(*pair) for pair in pairs(X[i]))
            file.write(line.format(",".join(map(str, labels[i])), items) + "\n")
    return path


# Peer, the module that it needs, and about how many bytes it takes.
PEERS = {
    "mach": (mach, "sklearn_mach", lambda n, d, K: 0),
    "mach_pairs": (mach_pairs, "sklearn_mach", lambda n, d, K: 0),
    "mach_small": (mach_small, "sklearn_mach", lambda n, d, K: 0),
    "fasttext": (fasttext, "fasttext", lambda n, d, K: 0),
    "fasttext_hs": (fasttext_hs, "fasttext", lambda n, d, K: 0),
    "pecos": (pecos, "pecos", lambda n, d, K: 0),
    "parabel": (parabel, "omikuji", lambda n, d, K: 0),
    "bonsai": (bonsai, "omikuji", lambda n, d, K: 0),
    "napkinxc": (napkinxc, "napkinxc", lambda n, d, K: 0),
    "br": (br, "napkinxc", lambda n, d, K: 0),
    "vw": (vw, "vowpalwabbit", lambda n, d, K: 0),
    "nb": (nb, "sklearn", lambda n, d, K: 24 * d * K + 16 * n * K),
    "ovr": (ovr, "sklearn", lambda n, d, K: 8 * d * K),
    "sgd": (sgd, "sklearn", lambda n, d, K: 8 * d * K),
    "ecoc": (ecoc, "sklearn", lambda n, d, K: 2 * d * K),
}
ONE_LABEL = {
    "ecoc",
    "nb",
    "fasttext",
    "fasttext_hs",
}  # peers that run on such sets alone
SEVERAL_LABELS = {"mach_pairs", "br"}
TITLES = {  # in the tables of pages, where an asterisk makes bold
    "mach": "*MACH",
    "mach_pairs": "*MACH, a row for each label",
    "mach_small": "*MACH, compressed to",
    "fasttext": "fastText, softmax",
    "fasttext_hs": "fastText, hierarchical softmax",
    "pecos": "PECOS XR-Linear",
    "parabel": "Parabel (omikuji)",
    "bonsai": "Bonsai (omikuji)",
    "napkinxc": "label tree of napkinXC",
    "br": "one-vs-rest of napkinXC",
    "vw": "label tree of Vowpal Wabbit",
    "nb": "MultinomialNB",
    "ovr": "LinearSVC, one-vs-rest",
    "sgd": "SGDClassifier, one-vs-rest",
    "ecoc": "OutputCodeClassifier of LinearSVC",
}
