"""What callbacks are told, and `verbose` prints, of a fit: repetitions and epochs.

The learners know only the methods of a task here, not scikit-learn's callbacks: a
task `running`, in it `begin_epoch` and `end_epoch` in turn.
"""

from contextlib import contextmanager, nullcontext


class SilentTask:
    """A task of which nobody is told."""

    def __init__(self, *args, **kwargs):
        pass

    def running(self, estimator=None):
        """Context in which the task is done, by `estimator` if there is one."""
        return nullcontext()

    def begin_epoch(self):
        pass

    def end_epoch(self, store=None):
        """Whether to stop training; `store` brings the weights to their arrays."""
        return False


class Task(SilentTask):
    """One or more repetitions that are trained together.

    In another process it becomes a silent one: that process may be on another machine,
    which callbacks do not reach, and a copy of the model need not travel.

    Parameters
    ----------
    model : MACHClassifier
    context : CallbackContext, of the task of which this is a part
    data : dict, X, y and metadata for the callbacks
    name : str
    first : int, the first repetition
    n_epochs : int
    attributes : callable that returns the fitted attributes after an epoch
    """

    def __init__(
        self, model, context, data, name, first, *, n_epochs=0, attributes=None
    ):
        self.model, self.parent, self.data = model, context, data
        self.name, self.first = name, int(first)
        self.n_epochs, self.attributes = n_epochs, attributes

    def __reduce__(self):
        return SilentTask, ()

    @contextmanager
    def running(self, estimator=None):
        self.context = self.parent.subcontext(
            task_name=self.name, task_id=self.first, max_subtasks=self.n_epochs
        )
        propagated = nullcontext()
        if hasattr(estimator, "set_callbacks"):  # others have nothing to tell
            propagated = self.context.propagate_callback_context(estimator)
        with propagated:
            self.context.call_on_fit_task_begin(estimator=self.model, **self.data)
            yield
            self.context.call_on_fit_task_end(estimator=self.model, **self.data)

    def begin_epoch(self):
        self.epoch = self.context.subcontext(task_name="epoch")
        self.epoch.call_on_fit_task_begin(estimator=self.model, **self.data)

    def end_epoch(self, store=None):
        def attributes():  # called only if a callback wants them
            if store is not None:
                store()
            return self.attributes()

        return self.epoch.call_on_fit_task_end(
            estimator=self.model, **self.data, reconstruction_attributes=attributes
        )


def report_epoch(epoch, part, loss, settings, n_rows, seconds):
    """Print the line of an epoch; part: number of this part and how many there are."""
    kind = "validation" if settings.early_stopping else "training"
    number, n_parts = part
    done, n_epochs = epoch + 1, len(settings.decay)
    left = n_epochs * (n_parts - number) - done
    print(
        f"part {number + 1}/{n_parts}, " if n_parts > 1 else "",
        f"epoch {done}/{n_epochs}: {kind} loss {loss:.4f}, "
        f"{n_rows * done / seconds:,.0f} rows/s, "
        f"{seconds / done * left:.1f} s left",
        sep="",
        flush=True,
    )
