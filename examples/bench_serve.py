"""
Time to serve one text
======================

How long a fitted model takes for one sample, with and without its vectorizer, in full
and compressed, and how long a fresh process takes until its first prediction. The texts
are made here: titles of products of some thousand classes. A figure is the median and
the 99th percentile of many calls, each with another text. Run with ``--save PATH`` to
write the table to a file.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import bench_results
import joblib
import numpy as np
import sklearn
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline

import sklearn_mach
from sklearn_mach import MACHClassifier, predict_topk

MODELS = "full", "compressed"
# What a fresh process does. It prints the seconds of its steps.
FRESH = """
import json, sys, time
start = time.perf_counter()
import joblib
import sklearn_mach
imported = time.perf_counter()
vectorizer = joblib.load(sys.argv[1])
model = sklearn_mach.load(sys.argv[2])
loaded = time.perf_counter()
model.predict_topk(vectorizer.transform([sys.argv[3]]), k=5)
first = time.perf_counter()
print(json.dumps([imported - start, loaded - imported, first - loaded]))
"""


def make_titles(n_samples, n_classes, rng):
    """Texts of four words of their class, most of them, and four of all classes."""
    n_words = 5 * n_classes
    words = np.array([f"word{i}" for i in range(n_words)])
    of_class = np.random.default_rng(0).integers(n_words, size=(n_classes, 4))
    y = (n_classes * rng.random(n_samples) ** 2).astype(int)  # some are frequent
    common = (n_words * rng.random((n_samples, 4)) ** 4).astype(int)
    kept = rng.random((n_samples, 4)) < 0.7
    texts = [
        " ".join([*words[own[keep]], *words[other]])
        for own, keep, other in zip(of_class[y], kept, common, strict=True)
    ]
    return texts, y


def tfidf_row(vectorizer):
    """A function that does for one text what ``vectorizer.transform([text])`` does."""
    counts, idf = super(TfidfVectorizer, vectorizer).transform, vectorizer.idf_

    def row(text):
        x = counts([text])
        x.data = (np.log(x.data) + 1) * idf[x.indices]  # sublinear_tf=True
        x.data /= np.linalg.norm(x.data) or 1.0
        return x

    return row


def milliseconds(function, items, n_calls=1000):
    """The median and the 99th percentile of calls with one item each, warmed up."""
    for item in items[:50]:
        function(item)
    times = []
    for i in range(n_calls):
        start = time.perf_counter()
        function(items[i % len(items)])
        times.append(time.perf_counter() - start)
    return np.quantile(times, [0.5, 0.99]) * 1e3


def fresh(vectorizer, model, text, environment, repeats):
    """Seconds to import, load and predict for the first time: medians of processes."""
    command = [sys.executable, "-c", FRESH, vectorizer, model, text]
    runs = [
        json.loads(subprocess.check_output(command, env=environment))
        for _ in range(repeats)
    ]
    return np.median(runs, axis=0)


def per_second(function, n_samples):
    start = time.perf_counter()
    function()
    return n_samples / (time.perf_counter() - start)


parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
parser.add_argument("--classes", type=int, default=10_000)
parser.add_argument("--save", metavar="PATH", help="write the table to this file")
args = parser.parse_args()

texts, y = make_titles(4 * args.classes, args.classes, np.random.default_rng(1))
new, y_new = make_titles(2000, args.classes, np.random.default_rng(2))
vectorizer = TfidfVectorizer(sublinear_tf=True, dtype=np.float32)
X = vectorizer.fit_transform(texts)
start = time.perf_counter()
model = MACHClassifier(n_jobs=os.cpu_count(), random_state=0).fit(X, y)
rows = [vectorizer.transform([text]) for text in new]
row_of = tfidf_row(vectorizer)
assert all(abs(row_of(t) - r).max() < 1e-6 for t, r in zip(new, rows, strict=True))
shape = f"K = {model.classes_.size:,}, d = {X.shape[1]:,}, n = {X.shape[0]:,}"
print(f"{shape}: fitted in {time.perf_counter() - start:.0f} s")

table, data = [], {"K": model.classes_.size, "d": X.shape[1], "n": X.shape[0]}


def add(what, *cells):
    table.append([what, *cells])
    print(f"{what:45}", *(f"{cell:>16}" for cell in cells))


def show(what, both):
    """A row: medians and 99th percentiles of the two models, in milliseconds."""
    data[what] = [list(times) for times in both]
    add(what, *(f"{a:.2f} ({b:.2f})" for a, b in both))


head = [f"{shape}: ms, median (99th percentile)", *MODELS]
add(*head)
table.clear()
with tempfile.TemporaryDirectory() as folder:
    files = [os.path.join(folder, name) for name in MODELS]
    model.save(files[0])
    model.compress(max_bytes=os.path.getsize(files[0]) // 20).save(files[1])
    joblib.dump(vectorizer, vectorizer_file := os.path.join(folder, "vectorizer"))
    models = [sklearn_mach.load(file) for file in files]  # mapped
    pipes = [make_pipeline(vectorizer, model) for model in models]

    def both(function, things, items):
        return [milliseconds(function(thing), items) for thing in things]

    of_text = milliseconds(lambda text: vectorizer.transform([text]), new)
    show("TfidfVectorizer.transform", [of_text] * 2)
    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
        of_text = milliseconds(lambda text: vectorizer.transform([text]), new)
    show("the same, without checks of scikit-learn", [of_text] * 2)
    show("the same numbers by tfidf_row", [milliseconds(row_of, new)] * 2)
    show(
        "model.predict_topk, k=5",
        both(lambda m: lambda x: m.predict_topk(x, k=5), models, rows),
    )
    show(
        "the same with return_proba=True",
        both(
            lambda m: lambda x: m.predict_topk(x, k=5, return_proba=True), models, rows
        ),
    )
    show("model.predict", both(lambda m: m.predict, models, rows))
    show(
        "model.predict_proba, all classes",
        both(lambda m: m.predict_proba, models, rows[:100]),
    )
    show(
        "predict_topk(pipeline, [text], k=5)",
        both(lambda p: lambda text: predict_topk(p, [text], k=5), pipes, new),
    )
    show(
        "tfidf_row, then model.predict_topk",
        both(lambda m: lambda text: m.predict_topk(row_of(text), k=5), models, new),
    )

    batch = vectorizer.transform(new)
    for m in models:
        m.predict_topk(batch, k=5)
    rates = [per_second(lambda m=m: m.predict_topk(batch, k=5), 2000) for m in models]
    data["batch"] = rates
    add("samples a second, a batch of 2,000", *(f"{rate:,.0f}" for rate in rates))
    for n_threads in 1, 2:
        with ThreadPoolExecutor(n_threads) as pool:
            rates = [
                per_second(lambda m=m: list(pool.map(m.predict_topk, rows)), 2000)
                for m in models
            ]
        what = f"samples a second, one by one, threads: {n_threads}"
        data[what] = rates
        add(what, *(f"{rate:,.0f}" for rate in rates))

    sizes = [os.path.getsize(file) / 1e6 for file in files]
    accuracy = [m.score(batch, y_new) for m in models]
    add("file, MB", *(f"{size:.0f}" for size in sizes))
    add("accuracy on new texts", *(f"{a:.3f}" for a in accuracy))
    data["MB"], data["accuracy"] = sizes, accuracy

    fresh_of = [fresh(vectorizer_file, f, new[0], os.environ, 5) for f in files]
    with tempfile.TemporaryDirectory() as cache:
        empty = os.environ | {"NUMBA_CACHE_DIR": cache}
        compiled = [fresh(vectorizer_file, f, new[0], empty, 1) for f in files]
    steps = "import", "load the model and the vectorizer", "first prediction"
    for name, seconds in zip(steps, zip(*fresh_of, strict=True), strict=True):
        data[name] = list(seconds)
        add(f"fresh process, seconds: {name}", *(f"{s:.2f}" for s in seconds))
    data["compiled"] = [seconds[-1] for seconds in compiled]
    add(
        "first prediction that compiles, seconds",
        *(f"{seconds[-1]:.1f}" for seconds in compiled),
    )

if args.save:
    bench_results.save(args.save, head, table, packages=("joblib",), data=data)
