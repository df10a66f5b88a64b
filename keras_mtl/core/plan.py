"""What a compiled model does with each of its tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from keras_mtl.core.labels import (
    Elements,
    align,
    positive_rows,
    split_missing,
    times,
    without_coarse_mask,
)
from keras_mtl.core.losses import TaskLoss


@dataclass
class TaskPlan:
    """One task with a loss, resolved at `compile`.

    Args:
        name: String. The task's name.
        loss: `TaskLoss`.
        ignore_class: Optional integer, the class label that means "no label".
        where: Optional string: the task whose positive labels select the rows.
        mask: Optional string: the model input that holds a padding mask.
        class_weight: Optional list of floats, one a class; training only.
    """

    name: str
    loss: TaskLoss
    ignore_class: int | None = None
    where: str | None = None
    mask: str | None = None
    class_weight: Sequence[float] | None = field(default=None)

    @property
    def is_sparse(self) -> bool:
        """Whether labels are class ids."""
        is_known = self.loss.function is keras.losses.sparse_categorical_crossentropy
        return is_known or self.loss.declares.takes_class_ids

    @property
    def is_binary(self) -> bool:
        """Whether labels are 0 or 1."""
        return self.loss.function in (
            keras.losses.binary_crossentropy,
            keras.losses.binary_focal_crossentropy,
        )


class BatchReader:
    """Turns a batch into each task's `Elements`.

    Args:
        plans: Dict from task name to `TaskPlan`.
        input_names: List of strings, the model's input names in flat order.
    """

    def __init__(self, plans: Mapping[str, TaskPlan], input_names: Sequence[str]) -> None:
        self._plans = dict(plans)
        self._input_names = list(input_names)

    def read(
        self, x: Any, y: Any, predictions: Any, sample_weight: Any, *, training: bool
    ) -> dict[str, Elements]:
        """Returns the elements of each task, by name.

        Args:
            x: Inputs as given to the model.
            y: Dict of labels by task.
            predictions: Dict of predictions by task.
            sample_weight: Optional dict of weights by task, or one tensor for all.
            training: Boolean. Class weights hold in training only, as in Keras.
        """
        rows = {
            plan.where: positive_rows(y[plan.where], self._marker(plan.where))
            for plan in self._plans.values()
            if plan.where is not None
        }
        return {
            name: self._elements(
                plan,
                tf.nest.map_structure(tf.convert_to_tensor, y[name]),
                predictions[name],
                rows=rows.get(plan.where),
                padding=self._padding(plan, x, predictions[name]),
                weight=_weight_of(sample_weight, name),
                training=training,
            )
            for name, plan in self._plans.items()
        }

    def _marker(self, task: str) -> int | None:
        return self._plans[task].ignore_class if task in self._plans else None

    def _elements(
        self,
        plan: TaskPlan,
        labels: Any,
        predictions: Any,
        *,
        rows: Any,
        padding: Any,
        weight: Any,
        training: bool,
    ) -> Elements:
        if any(part.shape.rank is None for part in tf.nest.flatten(labels)):
            raise ValueError(
                f"`y['{plan.name}']` has labels of unknown or changing rank. Give every batch the "
                "same rank; in a `tf.data` pipeline fix it with `tf.ensure_shape`."
            )
        if plan.is_sparse and not isinstance(predictions, Mapping):
            _check_places(plan.name, labels, predictions)
        labels, mask = split_missing(align(labels, predictions), plan.ignore_class)
        if training and plan.class_weight is not None:
            weight = times(weight, _class_weights(plan, labels, predictions))
        return Elements(labels, without_coarse_mask(predictions), mask, padding, rows, weight)

    def _padding(self, plan: TaskPlan, x: Any, predictions: Any) -> Any:
        if plan.mask is not None:
            flat = (
                x
                if isinstance(x, Mapping)
                else dict(zip(self._input_names, keras.tree.flatten(x), strict=True))
            )
            return tf.cast(flat[plan.mask], tf.bool)
        if isinstance(predictions, Mapping):
            return None
        return getattr(predictions, "_keras_mask", None)


def _check_places(task: str, labels: Any, predictions: Any) -> None:
    """Checks that class ids have a place for each prediction, where the lengths are known."""
    expected = predictions.shape[1:-1]
    received = labels.shape[1:][: len(expected)]
    if not received.is_compatible_with(expected):
        raise ValueError(
            f"`y['{task}']` must have a label for each prediction, of shape "
            f"{('batch', *expected)}, received {('batch', *labels.shape[1:])}. Pad labels as the "
            "inputs are padded: labels of padding are not read."
        )


def _weight_of(sample_weight: Any, task: str) -> Any:
    weight = sample_weight.get(task) if isinstance(sample_weight, Mapping) else sample_weight
    # Data adapters want the labels' structure, so a task with several labels repeats its weight.
    leaves = [] if weight is None else tf.nest.flatten(weight)
    return tf.cast(leaves[0], tf.float32) if leaves else None


def _class_weights(plan: TaskPlan, labels: Any, predictions: Any) -> Any:
    table = tf.constant(plan.class_weight, tf.float32)
    if plan.loss.for_shapes(labels.shape, predictions.shape).by_row:
        return tf.gather(table, tf.argmax(labels, axis=-1))
    # Smoothed labels count as the class they are nearest to, as in Keras.
    return tf.gather(table, tf.cast(tf.round(tf.cast(labels, tf.float32)), tf.int32))
