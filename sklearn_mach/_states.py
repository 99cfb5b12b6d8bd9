"""The state of a fitted classifier as it is pickled: plain arrays and numbers by name.

The names are those that the attributes had in earlier versions, whose pickles load.
"""

from ._estimators import Estimators
from ._fitting import Fit, Share
from ._hashing import collision_chance
from ._model import Model
from ._softmax import Memory
from ._targets import Targets
from ._weights import Linear

OF_MODEL = {  # names in the state: fields of the model
    "bucket_table_": "table",
    "n_buckets_": "n_buckets",
    "_chance": "chance",
    "logit_adjustment_": "tau",
    "_offset": "offset",
    "_scalars": "scalars",
    "_several": "several",
}
OF_MEMORY = {
    "t_": "t",
    "_order_seed": "order_seed",
    "_seen": "seen",
    "_factor": "factor",
    "_waiting": "waiting",
}


def flatten(state):
    """Attributes of a classifier with its `Fit` taken apart."""
    state = dict(state)
    if "_fitted" not in state:
        return state
    model, memory, class_weights, n_iter, share = state.pop("_fitted")
    state |= {name: getattr(model, key) for name, key in OF_MODEL.items()}
    state |= {"n_repetitions_": model.n_repetitions} | model.scorer.state()
    state |= {"n_iter_": n_iter, "_class_weights": class_weights}
    if memory is not None:
        state |= {name: getattr(memory, key) for name, key in OF_MEMORY.items()}
        state["_waiting"] = [(X, tuple(y), weight) for X, y, weight in memory.waiting]
    if share is not None:
        *others, rows = share
        if rows is not None:
            X, targets, weight = rows
            rows = X, tuple(targets), weight
        state["_share"] = (*others, rows)
    return state


def restore(state):
    """Attributes of a classifier from a state, also of an older version."""
    later = {"max_bytes": None, "checkpoint": None, "part": None}
    state = {"logit_adjustment": "auto"} | later | state
    if "bucket_table_" not in state:
        return state
    n_buckets, n_iter = state["n_buckets_"], state.pop("n_iter_")
    scorers = (kind.from_state(state, n_buckets) for kind in (Linear, Estimators))
    scorer = next(filter(None, scorers))
    of_model = {key: state.pop(name, None) for name, key in OF_MODEL.items()}
    of_memory = {key: state.pop(name, None) for name, key in OF_MEMORY.items()}
    class_weights = state.pop("_class_weights", None)
    del state["n_repetitions_"]
    of_model["tau"] = of_model["tau"] or 0.0
    of_model["several"] = bool(of_model["several"])
    if of_model["chance"] is None:
        known = of_model["table"], n_buckets, state["hashing"]
        of_model["chance"] = collision_chance(*known)
    memory = None
    if of_memory["order_seed"] is not None:
        of_memory["waiting"] = [
            (X, Targets(*y) if isinstance(y, tuple) else Targets.of(y), weight)
            for X, y, weight in of_memory["waiting"] or []
        ]
        memory = Memory(n_iter, **of_memory)
    share = state.pop("_share", None)
    if share is not None:
        *others, rows = share
        if rows is not None:
            X, targets, weight = rows
            rows = X, Targets(*targets), weight
        share = Share(*others, rows)
    model = Model(**of_model, scorer=scorer)
    return state | {"_fitted": Fit(model, memory, class_weights, n_iter, share)}
