"""Weights on the simplex, moved step by step, of the tasks that are active."""

from typing import Any

import tensorflow as tf


def project(point: Any, active: Any) -> Any:
    """Returns the nearest weights that are >= 0 and sum to 1 over the active tasks.

    Those are max(v - t, 0) with the one t that gives them the sum 1. With v sorted downwards,
    t = max_k (v_1 + ... + v_k - 1) / k.

    Args:
        point: Finite float tensor of shape `(num_tasks,)`.
        active: Boolean or float tensor of shape `(num_tasks,)`; `False` or 0 leaves a task out.

    Returns:
        A tensor of the shape and dtype of `point`; 0 for absent tasks, and where all are.

    Reference:
        Held, Wolfe, Crowder 1974, Validation of subgradient optimization, Mathematical
        Programming 6, 62-88.
    """
    point = tf.convert_to_tensor(point)
    present = tf.cast(active, point.dtype) > 0
    lowest = tf.constant(-2.0, point.dtype)
    # Relative to the largest, t is in [-1, 0): what lies below it may lie anywhere below it.
    largest = tf.reduce_max(tf.where(present, point, point.dtype.min))
    values = tf.where(present, tf.maximum(point - largest, lowest), lowest)
    sums = tf.cumsum(tf.sort(values, direction="DESCENDING"))
    counts = tf.range(1, values.shape[0] + 1, dtype=values.dtype)
    threshold = tf.reduce_max((sums - 1) / counts)
    return tf.where(present, tf.maximum(values - threshold, 0), 0)


def among(weights: Any, active: Any) -> Any:
    """Returns the weights of the active tasks, scaled to the sum 1; equal ones if all are 0."""
    kept = tf.where(active > 0, weights, 0)
    kept = tf.where(tf.reduce_sum(kept) > 0, kept, tf.cast(active > 0, kept.dtype))
    return tf.math.divide_no_nan(kept, tf.reduce_sum(kept))


def put_back(before: Any, weights: Any, active: Any) -> Any:
    """Returns all tasks' weights, when those of the active tasks have become `weights`.

    The active tasks share among them what they had before, so the sum stays; where they had
    nothing, they begin anew with 1 each in the mean.
    """
    weights = tf.cast(weights, before.dtype)
    had = tf.reduce_sum(tf.where(active > 0, before, 0))
    had = tf.where(had > 0, had, tf.reduce_sum(tf.cast(active > 0, before.dtype)))
    return tf.where(active > 0, had * weights, before)


def descend(weights: Any, matrix: Any, linear: Any, active: Any, *, rate: float, steps: int) -> Any:
    """Moves weights on the simplex along -(C w + b), in several steps.

    The unit of C and b is the largest sum of absolute values of a row of C over the active tasks,
    which is no less than any eigenvalue: with `rate` 1 steps do not overshoot.

    Args:
        weights: Float tensor of shape `(num_tasks,)`, where to start.
        matrix: Float tensor `(num_tasks, num_tasks)`, C; 0 for absent tasks.
        linear: Float tensor `(num_tasks,)`, b; 0 for absent tasks.
        active: Boolean or float tensor of shape `(num_tasks,)`; `False` or 0 leaves a task out.
        rate: Float > 0. Length of the steps, in that unit.
        steps: Integer >= 1. Number of steps.

    Returns:
        A tensor of the shape and dtype of `weights`.
    """
    unit = tf.reduce_max(tf.reduce_sum(tf.abs(matrix), axis=1))
    matrix, linear = (tf.math.divide_no_nan(values, unit) for values in (matrix, linear))
    (weights,) = tf.while_loop(
        lambda point: True,
        lambda point: (project(point - rate * (tf.linalg.matvec(matrix, point) + linear), active),),
        (weights,),
        maximum_iterations=steps,
    )
    return weights
