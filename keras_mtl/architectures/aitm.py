"""Adaptive information transfer: each step attends to what the step before knows."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_mtl.architectures import _graph
from keras_mtl.architectures._columns import one_tensor, task_columns
from keras_mtl.architectures._gates import at_least_float32
from keras_mtl.architectures._steps import StepHead, check_steps, logit_layers
from keras_mtl.core import checks
from keras_mtl.core.rebuild import resolve_trunk
from keras_mtl.model import MultiTaskModel
from keras_mtl.task import Task


def aitm(
    inputs: Any,
    trunk: Any,
    tasks: Mapping[str, Any],
    *,
    calibration: float = 0.6,
    copy_weights: bool = False,
    name: str | None = None,
) -> MultiTaskModel:
    """Builds an adaptive information transfer multi-task model (AITM).

    For tasks that follow from each other, in the order of `tasks`: a click, then a purchase. Each
    has a trunk of its own, q_t, and from the second on attends to what the one before transfers:

        z_1 = q_1,   p_(t-1) = relu(W z_(t-1) + b),
        z_t = w_p h1(p_(t-1)) + w_q h1(q_t),   w_u = softmax over u of <h2(u), h3(u)> / sqrt(size),

    with linear maps h1, h2, h3. Task t predicts `y_t = head_t(tower_t(z_t))`, that its step and all
    before it are taken. The calibrator adds `calibration * mean(max(y_t - y_(t-1), 0))` to the loss
    for each t > 1, because a later step is never likelier: the mean over the batch (of each
    replica) and what the head keeps of other axes, in training and in evaluation, without labels.
    Features with axes between batch and channels are attended to position by position.

    Trunks are named `<task>_<stage>`, or `<task>_column` of a single stage; then come
    `<task>_transfer` (W and b), `<task>_attention`, the tower, the head as `<task>_logits`, and
    its activation with the calibrator as `<task>`. Parameters: for each task those of the trunk, of
    its tower and of its head, and from the second on `(size + 1) * size + 3 * size**2`, where the
    trunk returns `size` channels.

    The variables of a task up to z_t are shared by it and all later tasks, its tower and head are
    private; sharing ends at z_t and, where `inputs` is a stem, there.

    Args:
        inputs: As in `hard_sharing`.
        trunk: As in `hard_sharing`, of one output; rebuilt for each task, with other initial values
            in each.
        tasks: Dict from task name to a `keras_mtl.heads.BinaryClassification`, or a
            `keras_mtl.Task` with one. A label is 1 where this step and all before it were taken.
        calibration: Float >= 0. The calibrator's strength; 0 does without it and takes any heads.
        copy_weights: Boolean. Whether every trunk starts from the given one's weights.
        name: Optional string. Name of the model.

    Returns:
        A `keras_mtl.MultiTaskModel`, whose outputs are a dict by task name.

    Raises:
        TypeError: If `inputs`, `trunk`, `tasks` or an option is something else.
        ValueError: If an option is out of range, the trunk returns a dict or cannot be rebuilt, a
            task does not fit, or, under calibration, a head is no binary one, `units` or pooling of
            the heads differ, or a task has `where`.

    Example:

    >>> inputs = keras.Input((8,), name="impression")
    >>> trunk = keras.layers.Dense(4, activation="relu")
    >>> head = keras_mtl.heads.BinaryClassification()
    >>> tasks = {"clicked": head, "bought": head}
    >>> model = keras_mtl.architectures.aitm(inputs, trunk, tasks)
    >>> transfer = (4 + 1) * 4 + 3 * 4**2
    >>> model.count_params() == 2 * ((8 + 1) * 4 + (4 + 1) * 1) + transfer
    True

    Reference:
        Xi et al. 2021, Modeling the sequential dependence among audience multi-step conversions
        with multi-task learning in targeted display advertising, the AIT module and the behavioral
        expectation calibrator, https://arxiv.org/abs/2105.08489; `calibration` as in the authors'
        program for public data, https://github.com/xidongbo/AITM.
        Differs from the paper: initial values are Glorot's; a task has an h1, h2, h3 of its own,
        which that program shares; no dropout or batch normalisation in the transfer.
    """
    # Layers.
    tasks = _graph.checked_tasks(tasks)
    calibration = checks.finite_number("calibration", calibration, minimum=0)
    if calibration:
        check_steps(tasks, "aitm", " Or give `calibration=0`.")
    sources = _graph.model_inputs(inputs)
    stages = resolve_trunk(trunk)
    columns = task_columns(stages, tasks, copy_weights=copy_weights)
    layers = logit_layers(tasks, "logits") if calibration else _graph.task_layers(tasks)

    # Functional model.
    read = _graph.trunk_inputs(inputs, stages[0], tasks)
    outputs: dict[str, Any] = {}
    before = None
    for key, task in tasks.items():
        features = _checked(columns[key](read), stages[-1])
        features = features if before is None else _transferred(key, before, features)
        outputs[key] = _graph.task_output(key, task, layers[key], features, sources)
        before = features
    if calibration:
        outputs = _calibrated(tasks, outputs, calibration)

    # Config.
    return _graph.multi_task_model(sources, outputs, tasks, name)


def _checked(features: Any, stage: keras.layers.Layer) -> Any:
    """Returns the features of a task, if there are channels to attend with."""
    features = one_tensor(features, stage, "aitm")
    if len(features.shape) < 2 or features.shape[-1] is None:
        raise ValueError(
            "Features of aitm must have the shape (batch, ..., channels) with a known number of "
            f"channels, stage '{stage.name}' of `trunk` returns {tuple(features.shape)}."
        )
    return features


def _transferred(task: str, before: Any, own: Any) -> Any:
    """Returns z_t, from z_(t-1) and q_t."""
    size = before.shape[-1]
    transfer = keras.layers.Dense(size, activation="relu", name=f"{task}_transfer")
    return InformationAttention(name=f"{task}_attention")([transfer(before), own])


def _calibrated(
    tasks: Mapping[str, Task], logits: Mapping[str, Any], strength: float
) -> dict[str, Any]:
    """Returns the predictions; each logit layer is read by its own task and by the next."""
    outputs = {}
    before: list[Any] = []
    for key, task in tasks.items():
        head = CalibratedStep(task.head, strength, name=key)
        outputs[key] = head([logits[key], *before])
        before = [logits[key]]
    return outputs


@keras.saving.register_keras_serializable(package="keras_mtl")
class InformationAttention(keras.layers.Layer):
    """Attends to what the task before transfers and to the task's own features.

    Of each u of the two it takes w_u h1(u), with weights w = softmax(<h2(u), h3(u)> / sqrt(size))
    over the two and linear maps h1, h2, h3 without bias: `3 * size**2` parameters.

    Args:
        name: Optional string. Name of the layer.

    Call arguments:
        inputs: List of p and q, both `(batch, ..., size)`. The mask of q goes along.

    Output shape: `(batch, ..., size)`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, inputs_shape: Any) -> None:
        size = inputs_shape[0][-1]
        self.h1, self.h2, self.h3 = (
            self.add_weight(shape=(size, size), initializer="glorot_uniform", name=name)
            for name in ("h1", "h2", "h3")
        )

    def call(self, inputs: Sequence[Any], mask: Any = None) -> Any:
        del mask
        both = ops.stack(list(inputs), axis=-2)  # (batch, ..., 2, size)
        # float32: a sum of products of float16 overflows at 65504.
        keys, queries = (at_least_float32(ops.matmul(both, h)) for h in (self.h2, self.h3))
        scores = ops.sum(keys * queries, axis=-1, keepdims=True) / math.sqrt(both.shape[-1])
        weights = ops.cast(ops.softmax(scores, axis=-2), both.dtype)
        return ops.sum(weights * ops.matmul(both, self.h1), axis=-2)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        del inputs
        return None if mask is None else mask[1]


@keras.saving.register_keras_serializable(package="keras_mtl")
class CalibratedStep(StepHead):
    """Predicts a step, and adds to the loss by how much it is likelier than the one before.

    Args:
        head: As in `StepHead`.
        strength: Float >= 0. What the mean of max(y_t - y_(t-1), 0) is multiplied by.

    Call arguments:
        logits: List of the task's own logits and, unless it is the first, of those before.
    """

    only_for_added_loss = (1,)

    def __init__(self, head: Any, strength: float, **kwargs: Any) -> None:
        super().__init__(head, **kwargs)
        self.strength = strength

    def logit(self, logits: Sequence[Any], mask: Any = None) -> Any:
        own, *before = logits
        for other in before:
            excess = _mean_excess(own, other, None if mask is None else mask[0])
            self.add_loss(self.strength * excess)
        return own

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "strength": self.strength}


def _mean_excess(own: Any, before: Any, mask: Any) -> Any:
    """Returns the mean of max(y_t - y_(t-1), 0) over what a mask `(batch, steps)` keeps."""
    present = ops.ones_like(own, dtype="bool") if mask is None else ops.cast(mask, "bool")
    while len(present.shape) < len(own.shape):
        present = ops.expand_dims(present, -1)
    # Masked before the sigmoid, and 0 after it: padding may hold NaN.
    excess = _excess(ops.where(present, own, 0.0), ops.where(present, before, 0.0))
    kept = ops.cast(ops.broadcast_to(present, ops.shape(own)), own.dtype)
    # Not `ops.mean`: a replica may get no rows of the last batch.
    return ops.sum(excess) / ops.maximum(ops.sum(kept), 1.0)


def _excess(own: Any, before: Any) -> Any:
    return ops.relu(ops.sigmoid(own) - ops.sigmoid(before))
