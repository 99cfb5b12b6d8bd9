"""
================================
Which words spoke for a label
================================

Why this label and no other? :func:`~sklearn_mach.inspection.explain` names the words of
a text that spoke for its label the most, straight from a pipeline.
"""

# %%
# Lines of code with a gap
# ------------------------
# A text is a line of the standard library's source that calls a method, without the
# name of the method. The name is the label.

import re
import sysconfig
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline

from sklearn_mach import MACHClassifier, predict_topk
from sklearn_mach.inspection import explain

plt.style.use("sklearn_mach.mach")
library = Path(sysconfig.get_path("stdlib"))
name_of = {}  # a line that occurs again keeps its first name
for path in sorted(library.rglob("*.py")):
    if {"site-packages", "test", "tests"}.isdisjoint(path.parts):
        for line in path.read_text("utf-8", errors="replace").splitlines():
            call = re.fullmatch(r"\s*(.*\.)([a-z_]\w+)(\(.+)", line)
            if call:
                name_of.setdefault(f"{call[1]} GAP {call[3]}", call[2])
texts, labels = np.array(list(name_of)), np.array(list(name_of.values()))
_, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
texts, labels = texts[counts[place] >= 2], labels[counts[place] >= 2]
print(f"{texts.size:,} lines, {np.unique(labels).size:,} names")

pipe = make_pipeline(
    TfidfVectorizer(min_df=2, dtype=np.float32), MACHClassifier(random_state=0)
)
pipe.fit(texts, labels)

# %%
# Words that spoke for a name
# ---------------------------
# The score of a label is a sum over the words of the text, less the same sum for the
# mean of all labels. ``explain`` gives the largest terms of this sum.

lines = [
    'text = data. GAP ("utf-8")',
    "path = os.path. GAP (folder, filename)",
    "self.socket. GAP ((host, port))",
    "match = re. GAP (pattern, line, re.IGNORECASE)",
]
found = explain(pipe, lines, k=3)
for i, line in enumerate(lines):
    print(f"{line}\n    {found.labels[i]}: ", end="")
    words = zip(found.features[i], found.contributions[i], strict=True)
    print(", ".join(f"{word} {value:+.1f}" for word, value in words if value > 0))

# %%
# One name against another
# ------------------------
# With ``against`` the question is why one label is ahead of a second one. Here it is
# the second best of the last line.

best = predict_topk(pipe, lines[-1:], k=2)[0]
why = explain(pipe, lines[-1:], labels=best[0], against=best[1], k=5)
shown = np.flatnonzero(why.contributions[0] > 0)
words, values = why.features[0][shown], why.contributions[0][shown]

figure, axes = plt.subplots()
bars = axes.barh(np.arange(len(shown)), values, height=0.6)
axes.bar_label(bars, [f"{value:+.2f}" for value in values], padding=6, fontsize=15)
axes.set_yticks(np.arange(len(shown)), words, fontsize=16)
axes.invert_yaxis()
axes.margins(x=0.15)
axes.set_xlabel(f"speaks for “{best[0]}” against “{best[1]}”", fontsize=15)
axes.tick_params(axis="x", labelsize=13)
axes.grid(False)
axes.set_title(lines[-1], fontsize=14)
plt.show()

# %%
# A label shares its buckets with others, a different set in each repetition. So a word
# of another label may speak for this one in a single repetition, and the mean over
# repetitions makes it small.
