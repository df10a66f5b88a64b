"""Checks labels against what a task's loss can read, on arrays and inside input pipelines."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import tensorflow as tf

from keras_mtl.core import label_tensors
from keras_mtl.core.head_loss import HeadLoss
from keras_mtl.core.input_checks import fits
from keras_mtl.core.labels import align, split_missing
from keras_mtl.core.plan import TaskPlan

# More numbers than a label that is shown whole has.
_WHOLE = 16
_ASSERTION = re.compile(r"(`(?:y\['|sample_weight).*?) :: *\] *\[(.*?)\] *\[(.*?)\]", re.DOTALL)


class Rule(NamedTuple):
    """One condition on labels, as tensors: works eagerly and in a graph."""

    holds: Any
    message: str
    received: Any
    row: Any


def _rule(message: str, values: Any, bad: Any) -> Rule:
    holds = tf.logical_not(tf.reduce_any(bad))
    if tf.executing_eagerly() and bool(holds):
        return Rule(holds, message, None, None)  # of masks of many images, a copy is much
    return Rule(holds, message, _first(values, bad), _row(bad))


def check(plan: TaskPlan, labels: Any, prediction_shape: Any) -> None:
    """Checks one task's labels; eagerly it raises, in a graph it adds assertions.

    Args:
        plan: The task.
        labels: Tensor or array of labels; dicts of which the loss declares no keys are left to it.
        prediction_shape: Shape tuple of the task's predictions, or a dict of them.

    Raises:
        ValueError: If shape or dtype do not fit, or eagerly, if a value does not.
    """
    if isinstance(labels, Mapping) and plan.loss.is_builtin and _is_shape(prediction_shape):
        raise ValueError(
            f"`y['{plan.name}']` must be one array, as the task has one output, received a dict "
            f"with the keys {list(labels)}. Give each output of the model a task of its own."
        )
    declares = plan.loss.declares
    if declares.parts:
        parts = label_tensors.read_parts(plan.name, declares.parts, labels)
        _check_faults(plan, parts, prediction_shape)
        return
    if isinstance(labels, Mapping) or not _is_shape(prediction_shape):
        return
    labels = label_tensors.read(plan.name, labels, plan.ignore_class)
    _check_faults(plan, labels, tuple(prediction_shape))
    plan = replace(plan, loss=plan.loss.for_shapes(labels.shape, prediction_shape))
    if not (plan.is_sparse or plan.loss.elementwise or plan.loss.by_row):
        return
    _check_shape(plan, labels, tuple(prediction_shape))
    for rule in _rules(plan, labels, tuple(prediction_shape)):
        _enforce(rule)


def _check_faults(plan: TaskPlan, labels: Any, prediction_shape: Any) -> None:
    for fault in plan.loss.declares.faults(labels, plan.ignore_class, prediction_shape):
        values = labels if fault.part is None else labels[fault.part]
        argument = f"`y['{plan.name}']" + ("`" if fault.part is None else f"['{fault.part}']`")
        if fault.bad is True:
            received = f"shape {tuple(values.shape)}, dtype {values.dtype.name}"
            raise ValueError(f"{argument} {fault.message} Received {received}.")
        _enforce(_rule(f"{argument} {fault.message}", values, fault.bad))


def check_weights(argument: str, weights: Any) -> None:
    """Checks sample weights; eagerly it raises, in a graph it adds assertions.

    Args:
        argument: String. The argument's name, for the message.
        weights: Tensor or array, or a structure of them.

    Raises:
        ValueError: Eagerly, if a weight is negative or not finite.
    """
    for part in tf.nest.flatten(weights):
        values = tf.cast(part, tf.float32)
        bad = tf.logical_not(tf.math.is_finite(values) & (values >= 0))
        message = (
            f"`{argument}` must hold finite numbers >= 0. Give 0.0 to rows that are not to count."
        )
        _enforce(_rule(message, values, bad))


def _enforce(rule: Rule) -> None:
    if not tf.executing_eagerly():
        data = [f"{rule.message} :: ", rule.received, rule.row]
        tf.debugging.Assert(rule.holds, data, summarize=_WHOLE)
    elif not bool(rule.holds):
        received = rule.received.numpy()
        text = " ".join(f"{number:g}" for number in received) if received.ndim else received
        raise ValueError(_message(rule.message, text, rule.row.numpy()))


def _message(message: str, received: Any, row: Any, end: str = "") -> str:
    received = f"[{received}]" if " " in str(received) else received
    return f"{message} Received {received}. First in row {row}{end}."


def _is_shape(shape: Any) -> bool:
    return not isinstance(shape, Mapping)


def readable(error: Exception) -> str | None:
    """Returns the message of an assertion of this file that failed inside an input pipeline."""
    # TensorFlow escapes the quotes.
    found = _ASSERTION.search(str(error).replace("\\'", "'"))
    if not found:
        return None
    message, received, row = found.groups()
    return _message(message, received, row, " of its batch")


def _check_shape(plan: TaskPlan, labels: Any, shape: tuple[Any, ...]) -> None:
    if labels.shape.rank is None:
        return
    received = tuple(labels.shape)
    if not received:
        raise ValueError(
            f"`y['{plan.name}']` must have a first axis over the rows of a batch, received a "
            "scalar. Batch the data set: `dataset.batch(32)`."
        )
    allowed = [shape[:-1], (*shape[:-1], 1)] if plan.is_sparse else [shape]
    if not plan.is_sparse and shape[-1] == 1:
        allowed.append(shape[:-1])
    if not any(fits(received[1:], option[1:]) for option in allowed):
        expected = " or ".join(str(("batch", *option[1:])) for option in allowed)
        raise ValueError(
            f"`y['{plan.name}']` must have shape {expected}, received {received}. "
            + _shape_advice(plan, labels, shape)
        )


def _shape_advice(plan: TaskPlan, labels: Any, shape: tuple[Any, ...]) -> str:
    if plan.is_sparse and tuple(labels.shape)[1:] == shape[1:]:
        return "These look one-hot: give class ids, or use the loss 'categorical_crossentropy'."
    if plan.loss.by_row and labels.dtype.is_integer and labels.shape.rank < len(shape):
        return "These look like class ids: use the loss 'sparse_categorical_crossentropy'."
    factor = _times_finer(labels, shape)
    if factor:
        return (
            f"They are {factor} times as fine as the predictions: give the head "
            f"`upsampling={factor}`, or read finer features."
        )
    return "Reshape the labels, or change the head."


def _times_finer(labels: Any, shape: tuple[Any, ...]) -> int | None:
    """Returns by what whole number labels are longer along all axes of pixels or steps."""
    inner = shape[1:-1]
    pairs = list(zip(tuple(labels.shape)[1 : len(shape) - 1], inner, strict=False))
    ratios = {a / b for a, b in pairs if a and b}
    factor = ratios.pop() if len(ratios) == 1 and len(pairs) == len(inner) else 0.0
    return int(factor) if factor > 1 and factor.is_integer() else None


def _rules(plan: TaskPlan, labels: Any, shape: tuple[Any, ...]) -> list[Rule]:
    if labels.dtype.is_bool:
        return []
    values, _ = split_missing(labels, plan.ignore_class)
    if plan.is_sparse:
        return _class_rules(plan, values, shape[-1])
    if plan.loss.declares.lowest_label is not None:
        return _range_rules(plan, values, plan.loss.declares)
    return _probability_rules(plan, values) if plan.is_binary else []


def _class_rules(plan: TaskPlan, values: Any, num_classes: int | None) -> list[Rule]:
    rules = []
    if values.dtype.is_floating:
        values = tf.cast(values, tf.float64)  # of float16, 2049 classes would be 2048
        message = (
            f"`y['{plan.name}']` must hold class ids, received a fraction. "
            "Give integers, or use a regression loss."
        )
        rules.append(_rule(message, values, tf.not_equal(tf.round(values), values)))
        rules += _float_marker_rules(plan, values)
    highest = "any" if num_classes is None else num_classes - 1
    bad = _outside(values, num_classes)
    message = (
        f"`y['{plan.name}']` must hold class ids from 0 to {highest}{_marker(plan, values)}. "
        "Renumber the classes, or change the head's `num_classes`."
    )
    return [*rules, _rule(message, values, bad)]


def _float_marker_rules(plan: TaskPlan, values: Any) -> list[Rule]:
    # The loss would leave these out, but they would count in its mean.
    if plan.loss.ignore_class is None:
        return []
    message = (
        f"`y['{plan.name}']` must hold NaN where a float label is missing: the loss's "
        f"`ignore_class={plan.loss.ignore_class}` marks integers. Give integers, or NaN."
    )
    return [_rule(message, values, tf.equal(values, float(plan.loss.ignore_class)))]


def _outside(values: Any, num_classes: int | None) -> Any:
    """Returns where class ids are negative or too high, in their own dtype: masks are large."""
    bad = tf.less(values, tf.zeros((), values.dtype))
    if num_classes is None or num_classes > values.dtype.max:
        return bad
    return bad | tf.greater_equal(values, tf.cast(num_classes, values.dtype))


def _range_rules(plan: TaskPlan, values: Any, loss: HeadLoss) -> list[Rule]:
    wide = tf.cast(values, tf.float64)
    bad = tf.logical_not(tf.math.is_finite(wide) & (wide >= loss.lowest_label))
    message = (
        f"`y['{plan.name}']` must hold finite {loss.label_noun} >= {loss.lowest_label}"
        f"{_marker(plan, values)}. Correct these labels, or use another loss."
    )
    return [_rule(message, values, bad)]


def _probability_rules(plan: TaskPlan, values: Any) -> list[Rule]:
    wide = tf.cast(values, tf.float64)
    bad = (wide < 0) | (wide > 1)
    message = (
        f"`y['{plan.name}']` must hold labels from 0 to 1{_marker(plan, values)}. "
        "Map the classes to 0 and 1."
    )
    return [_rule(message, values, bad)]


def _marker(plan: TaskPlan, values: Any) -> str:
    if values.dtype.is_floating:
        return ", or NaN where a float label is missing (-1.0 is no marker)"
    if plan.ignore_class is None and not (plan.is_sparse or plan.is_binary):
        return " (no integer is declared as missing: set the head's `ignore_class`, or give floats)"
    if plan.ignore_class is None:
        return " (no class is declared as missing: set the head's `ignore_class`)"
    return f", or {plan.ignore_class} where the label is missing"


def _first(values: Any, bad: Any) -> Any:
    """Returns the first bad value, or vector where `bad` has an axis less; of none, any."""
    whole = bad.shape.rank is not None and bad.shape.rank < values.shape.rank
    inner = values.shape[-1:].as_list() if whole else []
    values, bad = tf.reshape(values, [-1, *inner]), tf.reshape(bad, [-1])
    return tf.cond(
        tf.size(values) > 0,
        lambda: values[tf.argmax(tf.cast(bad, tf.int32))],
        lambda: tf.zeros(inner, values.dtype),
    )


def _row(bad: Any) -> Any:
    """Returns the row of the first bad value, or 0."""
    # With one axis more, which TensorFlow wants of scalars; their sum over no index is 0.
    return tf.reduce_sum(tf.where(bad[tf.newaxis])[:1, 1:2])


def check_scalar_loss(plan: TaskPlan, labels: Any, predictions: Any) -> None:
    """Refuses a loss that is one number for the whole batch, for labels of which some miss."""
    if plan.loss.is_scalar(align(labels, predictions), predictions):
        raise ValueError(
            f"`loss` of task '{plan.name}' returns a scalar, which cannot be masked, but "
            f"`y['{plan.name}']` has missing labels. Return one value a row: do not reduce over "
            "the batch in the loss."
        )
