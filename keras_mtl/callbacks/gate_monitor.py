"""Logs how much of each expert the gates take, and warns of gates that have collapsed."""

import warnings
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_mtl.callbacks.base import TaskCallback, number_of_rows, rows_between
from keras_mtl.core import checks
from keras_mtl.core.logbook import LogBook


class GateMonitor(TaskCallback):
    """Logs each gate's mean weight of each expert at the end of an epoch.

    The logs of an epoch hold, for each gate of the model, the mean over `x` of the weight that it
    gives to each expert, without dropout, as `<name of the layer>_<number of the expert>`:
    `digit_gate_0`, in the order in which the gate reads the experts. Only what the gates read is
    computed for it, not the experts of their level.

    A gate that gives one of several experts nearly all weight lets its task train no other, and
    seldom comes back. It is warned of, once a `fit`.

    Args:
        x: Arrays as the model takes them: one, or a list or dict by input. A few hundred rows are
            enough, for it is gone through at the end of every epoch.
        batch_size: Integer >= 1. Rows computed at once.
        collapse_threshold: Float from 0 to 1. Mean weight of one expert above which the gate
            counts as collapsed; 1 never warns.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range, `x` does not fit the model, it has no gates, or
            a name is in the logs already.

    Example:

    >>> inputs = keras.Input((4,))
    >>> tasks = {"age": keras_mtl.heads.Regression(), "sex": keras_mtl.heads.Regression()}
    >>> model = keras_mtl.architectures.mmoe(inputs, keras.layers.Dense(3), tasks, num_experts=2)
    >>> model.compile("sgd")
    >>> x, y = np.ones((2, 4)), {"age": np.ones((2, 1)), "sex": np.ones((2, 1))}
    >>> monitor = keras_mtl.callbacks.GateMonitor(x, collapse_threshold=1.0)
    >>> logs = model.fit(x, y, verbose=0, callbacks=[monitor]).history
    >>> [name for name in logs if "_gate_" in name]
    ["age_gate_0", "age_gate_1", "sex_gate_0", "sex_gate_1"]
    """

    def __init__(self, x: Any, batch_size: int = 32, collapse_threshold: float = 0.95) -> None:
        super().__init__()
        self.x = x
        self._rows = number_of_rows("x", x)
        self.batch_size = checks.positive_integer("batch_size", batch_size)
        self.collapse_threshold = checks.finite_number(
            "collapse_threshold", collapse_threshold, minimum=0, maximum=1
        )
        self._reader: keras.Model | None = None
        self._collapsed: set[str] = set()

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Finds the gates, and checks `x` and the names before the first step."""
        del logs
        gates = [layer for layer in self.model.layers if getattr(layer, "is_gate", False)]
        if not gates:
            raise ValueError(
                f"GateMonitor found no gate among the layers of model '{self.model.name}'. Build "
                "it with an architecture that has gates, such as `keras_mtl.architectures.mmoe`."
            )
        self._reader = keras.Model(self.model.input, {gate.name: gate.output for gate in gates})
        self._collapsed = set()
        first = self.check_inputs(self.x, lambda: self._weights(0, 1))
        self._check_names(self._named(first))

    def _check_names(self, names: Mapping[str, float]) -> None:
        books = [metric for metric in self.model.metrics if isinstance(metric, LogBook)]
        taken = {name for book in books for name in book.results(training=True)}
        if taken & {*names}:
            raise ValueError(
                f"The logs hold {sorted(taken & {*names})} already, which GateMonitor would write. "
                "Rename the metric, or the task."
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the mean weights to the logs, and warns of gates that have collapsed."""
        del epoch
        means = self._means()
        if logs is not None:
            logs.update(self._named(means))
        for gate, weights in means.items():
            self._judge(gate, weights)

    def _means(self) -> dict[str, Any]:
        totals: dict[str, Any] = {}
        for start in range(0, self._rows, self.batch_size):
            for gate, weights in self._weights(start, start + self.batch_size).items():
                totals[gate] = totals.get(gate, 0.0) + weights.sum(axis=0)
        return {gate: total / self._rows for gate, total in totals.items()}

    def _weights(self, start: int, stop: int) -> dict[str, Any]:
        """Returns each gate's weights, `(rows, num_experts)`, for some of the rows."""
        # Called, not `predict`: the same on one device and on each of several workers.
        found = self._reader(rows_between(self.x, start, stop), training=False)
        # In float64: sums of many rows.
        return {gate: np.asarray(weights, "float64") for gate, weights in found.items()}

    @staticmethod
    def _named(means: Mapping[str, Any]) -> dict[str, float]:
        return {
            f"{gate}_{expert}": float(weight)
            for gate, weights in means.items()
            for expert, weight in enumerate(np.reshape(weights, -1))
        }

    def _judge(self, gate: str, weights: Any) -> None:
        most = int(np.argmax(weights))
        if len(weights) < 2 or not weights[most] > self.collapse_threshold:
            return
        if gate not in self._collapsed:
            self._collapsed.add(gate)
            warnings.warn(
                f"Gate '{gate}' has collapsed: expert {most} of {len(weights)} gets "
                f"{weights[most]:.1%} of its weight in the mean, so that its task hardly trains "
                "the others. Build the model anew with `load_balancing` above 0, "
                "`gate_dropout`, or a higher `temperature`, as far as the architecture takes them; "
                "or with fewer experts, if one is enough.",
                stacklevel=2,
            )
