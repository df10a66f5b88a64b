"""Checks and shapes what `fit` and `evaluate` are given, before the first step."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_mtl.core import checks, input_checks, label_checks
from keras_mtl.core.compilation import head_of
from keras_mtl.core.first_element import first_element, is_free_to_look
from keras_mtl.core.labels import split_missing
from keras_mtl.core.plan import TaskPlan

_NO_LABEL = "For an output without a label, compile with `loss={{'{0}': None}}`."


class Feed:
    """Prepares data for a compiled model.

    Args:
        plans: Dict from task name to `TaskPlan`.
        outputs: Dict from task name to its symbolic output or structure of outputs; of tasks
            without a loss too.
        inputs: List of the model's symbolic inputs.
    """

    def __init__(
        self, plans: Mapping[str, TaskPlan], outputs: Mapping[str, Any], inputs: Sequence[Any]
    ) -> None:
        self._plans, self._inputs = dict(plans), list(inputs)
        self._without_loss = [task for task in outputs if task not in plans]
        self._shapes = {
            task: keras.tree.map_structure(lambda x: x.shape, outputs[task]) for task in plans
        }
        self._heads = {task: head_of(outputs[task]) for task in plans}

    def prepare(self, x: Any, y: Any = None, sample_weight: Any = None) -> tuple[Any, Any, Any]:
        """Returns `(x, y, sample_weight)`, checked, as Keras' data adapters want them."""
        if y is not None:
            input_checks.check(self._inputs, x)
            self.check_labels(y)
            return x, y, self._weights(y, sample_weight)
        if isinstance(x, tf.data.Dataset):
            self._check_structure(x.element_spec)
            # As it is: errors of converted functions come wrapped in "in user code".
            checked = tf.autograph.experimental.do_not_convert(self._checked)
            x = x.map(checked, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
            return x, None, sample_weight
        if isinstance(x, keras.utils.PyDataset):
            self._check_element(x[0])
        elif inspect.isgenerator(x):
            return self._checked_generator(x), None, sample_weight
        elif hasattr(x, "element_spec"):
            self._check_structure(x.element_spec)
        elif isinstance(x, np.ndarray | tf.Tensor | Mapping | list | tuple):
            self._check_keys("y", y)
        return x, y, sample_weight

    @staticmethod
    def can_shuffle(x: Any) -> bool:
        """Whether Keras can shuffle `x`; it warns when told to shuffle what it cannot."""
        return not (isinstance(x, tf.data.Dataset) or inspect.isgenerator(x))

    def prepare_validation(self, data: Any) -> Any:
        """Returns `validation_data`, checked; of data sets and generators the first batch.

        Not of data sets that shuffle or have a cache in a file, which are checked as they are read.
        """
        if isinstance(data, tuple | list) and len(data) in (2, 3):
            return self.prepare(*data)
        if data is None:
            return None
        prepared = self.prepare(data)[0]
        if isinstance(data, tf.data.Dataset) and is_free_to_look(data):
            # The checks in the pipeline would find a bad label at the end of an epoch.
            element = first_element(data)
            if element is not None:
                self._check_element(element)
        return prepared

    def check_labels(self, y: Any) -> None:
        """Checks the keys, shapes, dtypes and values of all labels."""
        self._check_keys("y", y)
        for task, plan in self._plans.items():
            label_checks.check(plan, y[task], self._shapes[task])
            self._check_scalar_loss(plan, y[task])

    def _check_scalar_loss(self, plan: TaskPlan, labels: Any) -> None:
        shape = self._shapes[plan.name]
        if plan.loss.is_known_by_row or isinstance(shape, Mapping) or isinstance(labels, Mapping):
            return
        labels, mask = split_missing(labels, plan.ignore_class)
        if mask is not None and not bool(tf.reduce_all(mask)):
            label_checks.check_scalar_loss(plan, labels[:2], _zeros(shape, labels))

    def _check_keys(self, argument: str, y: Any) -> None:
        missing = [task for task in self._plans if isinstance(y, Mapping) and task not in y]
        advice = _NO_LABEL.format(missing[0]) if missing else ""
        self._check_tasks(argument, y, partial=False, advice=advice)
        for task, shape in self._shapes.items():
            if isinstance(shape, Mapping) and not isinstance(y[task], Mapping):
                self._refuse_other_than_dict(f"`{argument}['{task}']`", task, y[task])

    def _refuse_other_than_dict(self, argument: str, task: str, labels: Any) -> None:
        parts, head = self._plans[task].loss.declares.parts, self._heads[task]
        outputs = f"as the head has the outputs {list(self._shapes[task])}"
        keys = f"with the keys {list(parts)}" if parts else outputs
        received = checks.describe(labels)
        if hasattr(labels, "shape"):
            received = f"{type(labels).__name__} of shape {labels.shape}"
        advice = f"`encode` of the head {type(head).__name__} makes it of a list, an entry a row."
        raise ValueError(
            f"{argument} must be a dict, {keys}, received {received}."
            + (f" {advice}" if hasattr(head, "encode") else "")
        )

    def _check_tasks(
        self, argument: str, received: Any, *, partial: bool = True, advice: str = ""
    ) -> None:
        checks.task_keys(
            argument,
            received,
            list(self._plans),
            partial=partial,
            advice=advice,
            without_loss=self._without_loss,
        )

    def _check_structure(self, spec: Any) -> None:
        if not isinstance(spec, tuple) or len(spec) not in (2, 3):
            raise ValueError(
                "A data set must yield `(x, y)` or `(x, y, sample_weight)` with `y` a dict keyed "
                f"by task. Expected keys {list(self._plans)}, received {checks.describe(spec)}."
            )
        input_checks.check(self._inputs, spec[0])
        self._check_keys("y", spec[1])
        if len(spec) == 3 and isinstance(spec[2], Mapping):
            self._check_tasks("sample_weight", spec[2])

    def _check_element(self, element: Any) -> None:
        self._check_structure(tuple(element))
        self.check_labels(element[1])
        _check_weights(*element[2:])

    def _checked(self, *element: Any) -> tuple[Any, ...]:
        # Assertions run in the input pipeline: under XLA and replicas too, before any update.
        for task, plan in self._plans.items():
            label_checks.check(plan, element[1][task], self._shapes[task])
        _check_weights(*element[2:])
        return element

    def _checked_generator(self, generator: Iterator[Any]) -> Iterator[Any]:
        first = next(generator, None)
        if first is not None:
            self._check_element(first)

        def resumed() -> Iterator[Any]:
            if first is not None:
                yield first
            yield from generator

        # A real generator, which is what Keras' adapters recognise.
        return resumed()

    def _weights(self, y: Mapping[str, Any], sample_weight: Any) -> Any:
        """Gives every task a weight, in the structure of `y`, which the adapters compare."""
        if sample_weight is None:
            return None
        if isinstance(sample_weight, list | tuple):
            raise TypeError(
                "`sample_weight` must be one array for all tasks, or a dict keyed by task. "
                f"Expected keys {list(self._plans)}, received {checks.describe(sample_weight)}."
            )
        if not isinstance(sample_weight, Mapping):
            sample_weight = dict.fromkeys(self._plans, sample_weight)
        self._check_tasks("sample_weight", sample_weight)
        for task, weights in sample_weight.items():
            _check_dtype(f"sample_weight['{task}']", weights)
        _check_weights(sample_weight)
        rows = len(keras.tree.flatten(dict(y))[0])
        return {
            task: keras.tree.map_structure(
                lambda _, task=task: sample_weight.get(task, np.ones(rows, "float32")), y[task]
            )
            for task in y
        }

    def class_tables(self, class_weight: Any) -> dict[str, list[float]]:
        """Returns one list of weights by class id for each task named in `class_weight`."""
        if class_weight is None:
            return {}
        self._check_tasks("class_weight", class_weight)
        return {
            task: self._class_table(self._plans[task], weights)
            for task, weights in class_weight.items()
        }

    def _class_table(self, plan: TaskPlan, weights: Any) -> list[float]:
        argument, shape = f"class_weight['{plan.name}']", self._shapes[plan.name]
        if plan.loss.likelihood != "classification" or isinstance(shape, Mapping):
            raise ValueError(
                f"`{argument}` needs a task with class labels, but the loss of '{plan.name}' is "
                f"'{plan.loss.loss.name}'. Use `sample_weight` for it."
            )
        binary = plan.is_binary or shape[-1] == 1
        if binary and len(shape) > 1 and shape[-1] != 1:
            raise ValueError(
                f"`{argument}` has no meaning for {shape[-1]} labels a row. Use `sample_weight`."
            )
        if not isinstance(weights, Mapping):
            raise TypeError(
                f"`{argument}` must be a dict from class id to weight, received "
                f"{checks.describe(weights)}. Write {{0: 1.0, 1: 2.0}}."
            )
        size = 2 if binary else shape[-1]
        table = [1.0] * size
        advice = "Use 0.0 to leave the class out of the training loss."
        for label, weight in weights.items():
            if label not in range(size):
                raise ValueError(
                    f"`{argument}` must have class ids from 0 to {size - 1} as keys, received "
                    f"{checks.describe(label)}."
                )
            table[int(label)] = checks.finite_weight(f"{argument}[{label}]", weight, advice)
        return table


def _check_dtype(argument: str, weights: Any) -> None:
    dtype = np.asarray(weights).dtype
    if not (np.issubdtype(dtype, np.number) or np.issubdtype(dtype, np.bool_)):
        raise TypeError(f"`{argument}` must hold numbers, received dtype {dtype}.")


def _check_weights(weights: Any = None) -> None:
    """Checks the values of sample weights: one array for all tasks, or a dict by task."""
    if isinstance(weights, Mapping):
        for task, part in weights.items():
            label_checks.check_weights(f"sample_weight['{task}']", part)
    elif weights is not None:
        label_checks.check_weights("sample_weight", weights)


def _zeros(shape: Any, labels: Any) -> Any:
    rows = min(2, labels.shape[0])
    inner = [
        labels.shape[axis] if size is None and axis < labels.shape.rank else size or 1
        for axis, size in enumerate(shape)
    ]
    return tf.zeros([rows, *inner[1:]])


def translated(call: Callable[[], Any]) -> Any:
    """Runs `call`; a label that fails its check in an input pipeline becomes a `ValueError`."""
    try:
        return call()
    except tf.errors.InvalidArgumentError as error:
        message = label_checks.readable(error)
        if message is None:
            raise
    raise ValueError(message)
