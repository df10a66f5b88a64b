"""Logs how the gradients of the tasks stand to one another."""

from collections.abc import Mapping
from typing import Any

from keras_mtl.callbacks.base import TaskCallback
from keras_mtl.core import checks
from keras_mtl.core.conflicts import ConflictWatch


class GradientConflictMonitor(TaskCallback):
    """Logs conflicts between task gradients on the shared variables.

    For each pair of tasks a and b the logs of an epoch hold the means, over the steps measured, of
    the cosine of their gradients, `<a>_<b>_cosine`, below 0 where they oppose each other, and of
    their magnitude similarity 2 |a| |b| / (|a|^2 + |b|^2), `<a>_<b>_magnitude_similarity`, 1 where
    they are equally long. For each task they hold `<task>_share`: how much the step lowers its
    loss to first order, g . d / sum |g_j . d| with d the gradient that the optimizer gets;
    negative where the step raises it, and in absolute values summing to 1.

    The gradients are those of the shared variables over all replicas, times their effective
    weights, before any balancing. The first step of each epoch is measured and every
    `update_freq`-th after it, at the cost of one backward pass a task; the steps in between cost
    nothing. Values of tasks that had no label in any measured step are NaN.
    `keras_mtl.plots.plot_gradient_conflicts` draws them.

    Args:
        update_freq: Integer >= 1. Steps from one measurement to the next.

    Raises:
        TypeError: If `update_freq` is no integer.
        ValueError: If it is < 1, if two tasks share no variable, or if names in the logs collide.

    Example:

    >>> inputs = keras.Input((4,))
    >>> hidden = keras.layers.Dense(3)(inputs)
    >>> outputs = {"age": keras.layers.Dense(1)(hidden), "sex": keras.layers.Dense(1)(hidden)}
    >>> model = keras_mtl.MultiTaskModel(inputs, outputs)
    >>> model.compile("sgd", loss="mse")
    >>> x, y = np.ones((2, 4)), {"age": np.ones((2, 1)), "sex": np.ones((2, 1))}
    >>> monitor = keras_mtl.callbacks.GradientConflictMonitor(update_freq=100)
    >>> logs = model.fit(x, y, verbose=0, callbacks=[monitor]).history
    >>> [name for name in logs if name.endswith(("cosine", "similarity", "share"))]
    ["age_sex_cosine", "age_sex_magnitude_similarity", "age_share", "sex_share"]

    Reference:
        Yu, Kumar, Gupta, Levine, Hausman, Finn 2020, Gradient surgery for multi-task learning,
        definitions 1 and 2 (conflict, magnitude similarity), https://arxiv.org/abs/2001.06782.
    """

    def __init__(self, update_freq: int = 100) -> None:
        super().__init__()
        self.update_freq = checks.positive_integer("update_freq", update_freq)
        self._watch: ConflictWatch | None = None

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Begins to watch; the model's step is traced anew if it was not watched before."""
        del logs
        self._watch = self.model.watch_gradients(self.update_freq)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Starts the means anew."""
        del epoch, logs
        self._watch.clear()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the means to the logs."""
        del epoch
        if logs is not None:
            logs.update(self._watch.results())

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Ends watching."""
        del logs
        self._watch.enable(False)
