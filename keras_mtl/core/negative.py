"""Negative losses, where a weighting is undefined for them, as under a logarithm."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_mtl.core.losses import TaskLoss

# Never negative, by rounding neither, for labels that pass the checks before training and whatever
# the predictions. Not here: losses of whole rows, whose labels are not checked for their values;
# KL divergence, negative where the labels add up to less than the predictions; log-cosh, which is
# -1e-7 near 0; binary focal cross-entropy, of which a power may be that of a negative number.
NONNEGATIVE = (
    keras.losses.binary_crossentropy,
    keras.losses.sparse_categorical_crossentropy,
    keras.losses.mean_squared_error,
    keras.losses.mean_absolute_error,
    keras.losses.mean_absolute_percentage_error,
    keras.losses.mean_squared_logarithmic_error,
    keras.losses.huber,
    keras.losses.hinge,
    keras.losses.squared_hinge,
    keras.losses.categorical_hinge,
)
# The range in which an argument keeps a loss of the list on it.
_RANGES = {"label_smoothing": (0.0, 1.0), "delta": (0.0, math.inf)}

# Losses from here up to 0 are rounding of a loss of 0, such as the -1e-7 of log-cosh.
ROUNDING = -1e-6


def without_rounding(task_losses: Any) -> Any:
    """Returns the losses, 0 for those that are negative by rounding alone."""
    rounded = tf.logical_and(task_losses < 0, task_losses >= ROUNDING)
    return tf.where(rounded, tf.zeros_like(task_losses), task_losses)


def is_nonnegative(loss: TaskLoss) -> bool:
    """Whether a loss is known never to be negative."""
    arguments = getattr(loss.loss, "_fn_kwargs", {})
    usual = all(low <= arguments.get(name, low) <= high for name, (low, high) in _RANGES.items())
    return loss.declares.nonnegative or (usual and loss.function in NONNEGATIVE)


def check(method: str, task_losses: Any, active: Any, tasks: Sequence[str]) -> None:
    """Refuses negative losses of active tasks; in a graph the training step does it.

    Args:
        method: String. The weighting's name, for the message.
        task_losses: Tensor `(num_tasks,)`.
        active: Tensor `(num_tasks,)`, 1.0 for tasks that take part.
        tasks: List of task names; empty where they are not known.
    """
    if not (tf.executing_eagerly() and hasattr(task_losses, "numpy")):
        return
    values = np.where(np.asarray(active) > 0, np.asarray(task_losses), 0.0)
    if np.any(values < 0):
        index = int(np.argmax(values < 0))
        task = f"of task '{tasks[index]}'" if len(tasks) > index else f"at index {index}"
        raise ValueError(describe(method, task, f", received {values[index]:g}"))


def describe(method: str, task: str, received: str = "") -> str:
    """Returns the error for a negative loss."""
    return (
        f"`loss_weighting` {method} is undefined for negative losses: the loss {task} must be "
        f">= 0{received}. Use a loss that is bounded by 0, or a weighting without logarithms "
        "or ratios of losses, such as 'fixed' or 'learned'."
    )
