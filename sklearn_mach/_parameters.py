"""What the parameters of MACHClassifier may be, one by one."""

from numbers import Integral, Real
from os import PathLike

from ._compat import HasMethods, Interval, StrOptions
from ._decoding import DECODERS
from ._hashing import FAMILIES

CONSTRAINTS = {
    "estimator": [HasMethods(["fit"]), None],
    "n_repetitions": [
        Interval(Integral, 1, None, closed="left"),
        StrOptions({"auto"}),
    ],
    "n_buckets": [Interval(Integral, 2, None, closed="left"), StrOptions({"auto"})],
    "hashing": [StrOptions(set(FAMILIES)), "array-like"],
    "decoder": [StrOptions(set(DECODERS))],
    "logit_adjustment": [
        Interval(Real, None, None, closed="neither"),
        StrOptions({"auto"}),
    ],
    "device": [str],
    "learning_rate": [
        Interval(Real, 0, None, closed="neither"),
        StrOptions({"auto"}),
    ],
    "part": [tuple, None],
    "max_bytes": [Interval(Integral, 1, None, closed="left"), None],
    "max_iter": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
    "alpha": [Interval(Real, 0, None, closed="left")],
    "batch_size": [
        Interval(Integral, 1, None, closed="left"),
        StrOptions({"auto"}),
    ],
    "tol": [Interval(Real, 0, None, closed="left"), None],
    "early_stopping": ["boolean"],
    "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
    "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
    "class_weight": [StrOptions({"balanced"}), dict, None],
    "warm_start": ["boolean"],
    "n_jobs": [Integral, None],
    "random_state": ["random_state"],
    "verbose": ["verbose"],
    "checkpoint": [str, PathLike, None],
}
