"""Multi-task attention: one shared trunk, of which each task takes what its attention weighs."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_mtl.architectures import _graph
from keras_mtl.architectures._columns import stages_of
from keras_mtl.architectures._features import (
    position_mask,
    resample,
    with_channels,
    without_padding,
)
from keras_mtl.core import checks
from keras_mtl.heads.base import pool
from keras_mtl.model import MultiTaskModel

_CONVOLUTIONS = {3: keras.layers.Conv1D, 4: keras.layers.Conv2D, 5: keras.layers.Conv3D}


def mtan(
    inputs: Any,
    trunk: Any,
    tasks: Mapping[str, Any],
    *,
    reduction: int = 1,
    name: str | None = None,
) -> MultiTaskModel:
    """Builds one shared trunk with an attention a task after each stage (MTAN).

    With p_j what stage j of the trunk makes, from stage 0 on, a task takes `y_j = a_j * p_j`,
    element by element, with its attention

        a_0 = h_0(g_0(p_0)),   a_j = h_j(g_j([p_j, f_j(y_(j-1))])).

    g and h are the task's own products on the last axis (1x1 convolutions) with batch
    normalization, g with `relu` and h with `sigmoid`. f is for all tasks: a 3x3 convolution (of 3
    steps on sequences, a dense layer on features without positions) with batch normalization and
    `relu` that gives the channels of p_j. Tower and head read the last y_j.

    Where stage j changes the resolution, from n positions on an axis to m, f is followed by max
    pooling: position t is the largest of those that lie between `t n / m` and `(t + 1) n / m`. So
    a stage that halves has windows of 2, and one that doubles gets each position twice. Where
    stage j leaves no positions, such as `Flatten`, f reads the mean over them. Padding masks go
    along: padding is 0 for f and is not in the statistics of batch normalization.

    The layers that give a_j are named `<task>_attention_<j>`, those that give y_j
    `<task>_attended_<j>`, and f_j is `attention_features_<j>`. Parameters: those of the trunk,
    once; of each f_j `k c_(j-1) c_j + 4 c_j`, where c are channels and k is 3 to the number of
    axes with positions that p_j has; of each attention `c r + 4 r + r c_j + 4 c_j`, where r is
    `c_j // reduction` and c is c_0, later `2 c_j`; and those of each tower and head. The fours
    are batch normalization.

    The trunk and f are shared by all tasks, attentions are private; sharing ends at the output of
    each stage, and f is read by one task at a time.

    Args:
        inputs: As in `hard_sharing`.
        trunk: List of layers or models, or function that returns one; the objects themselves,
            weights included. Each stage returns one tensor `(batch, ..., channels)`, and all have
            the same number of axes, up to 3 with positions, until one leaves `(batch, channels)`.
        tasks: Dict from task name to a head or a `keras_mtl.Task`.
        reduction: Integer >= 1. By what the channels of a stage are divided inside an attention,
            down to 1; the authors take 4 on ResNet-50.
        name: Optional string. Name of the model.

    Returns:
        A `keras_mtl.MultiTaskModel`, whose outputs are a dict by task name.

    Raises:
        TypeError: If `inputs`, `trunk`, `tasks` or `reduction` is something else.
        ValueError: If `reduction` is out of range, the trunk is no list of stages, a stage returns
            what has no channels or changes the axes otherwise, or a task does not fit.

    Example:

    >>> inputs = keras.Input((8,), name="person")
    >>> trunk = [keras.layers.Dense(4, activation="relu"), keras.layers.Dense(3)]
    >>> tasks = {"age": keras_mtl.heads.Regression(), "job": keras_mtl.heads.Classification(3)}
    >>> model = keras_mtl.architectures.mtan(inputs, trunk, tasks)
    >>> shared = (8 + 1) * 4 + (4 + 1) * 3 + (4 * 3 + 4 * 3)
    >>> first, second = 4 * 4 + 4 * 4 + 4 * 4 + 4 * 4, 6 * 3 + 4 * 3 + 3 * 3 + 4 * 3
    >>> model.count_params() == shared + 2 * (first + second) + (3 + 1) * (1 + 3)
    True

    Reference:
        S. Liu, Johns, Davison 2019, End-to-end multi-task learning with attention,
        https://arxiv.org/abs/1803.10704; layers as in https://github.com/lorenmt/mtan.
        Differs from the paper: the attention reads p_j, as in the authors' wide ResNet, not
        features from within the stage; stages that enlarge are treated as those that shrink;
        layers before batch normalization have no bias, which it would take out again; after the
        last stage there is no f, as in the authors' ResNet-50.
    """
    # Layers.
    tasks = _graph.checked_tasks(tasks)
    reduction = checks.positive_integer("reduction", reduction)
    sources = _graph.model_inputs(inputs)
    stages = stages_of(trunk, "mtan")
    layers = _graph.task_layers(tasks)

    # Functional model.
    shared = _graph.trunk_inputs(inputs, stages[0], tasks)
    attended: dict[str, Any] = {}
    for index, stage in enumerate(stages):
        before, shared = shared, _graph.apply_stages([stage], shared)
        shared = with_channels(shared, stage, "mtan")
        read = {key: [shared] for key in tasks}
        if attended:
            _check_axes(stage, before, shared)
            features = AttentionFeatures(name=f"attention_features_{index}")
            read = {key: [shared, features([attended[key], shared])] for key in tasks}
        for key in tasks:
            attention = TaskAttention(reduction, name=f"{key}_attention_{index}")(read[key])
            product = keras.layers.Multiply(name=f"{key}_attended_{index}")
            attended[key] = product([attention, shared])
    outputs = {
        key: _graph.task_output(key, task, layers[key], attended[key], sources)
        for key, task in tasks.items()
    }

    # Config.
    return _graph.multi_task_model(sources, outputs, tasks, name)


def _check_axes(stage: keras.layers.Layer, before: Any, after: Any) -> None:
    """Checks that a stage keeps the axes with positions, or leaves none."""
    axes = len(after.shape)
    if axes == 2 or (axes == len(before.shape) and axes in _CONVOLUTIONS):
        return
    raise ValueError(
        f"Stage '{stage.name}' of `trunk` turns features of shape {tuple(before.shape)} into "
        f"{tuple(after.shape)}, which the attention of mtan cannot follow. It needs the same "
        "number of axes, at most 3 between batch and channels, or (batch, channels). Join the "
        "stage with the one before it."
    )


@keras.saving.register_keras_serializable(package="keras_mtl")
class TaskAttention(keras.layers.Layer):
    """Weighs each number of shared features for a task: sigmoid(h(relu(g(x)))).

    Args:
        reduction: Integer >= 1. By what the channels are divided between g and h.
        name: Optional string. Name of the layer.

    Call arguments:
        inputs: List of the features `(batch, ..., channels)`, which may be followed by others of
            the same positions. The mask of the first goes along.

    Output shape: that of the first input; values from 0 to 1.
    """

    def __init__(self, reduction: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reduction = reduction
        self.supports_masking = True

    def build(self, input_shape: Sequence[tuple[int | None, ...]]) -> None:
        channels = input_shape[0][-1]
        policy = self.dtype_policy
        inner = max(1, channels // self.reduction)
        joined = (*input_shape[0][:-1], sum(shape[-1] for shape in input_shape))
        self.reduce = keras.layers.Dense(inner, use_bias=False, dtype=policy, name="reduce")
        self.expand = keras.layers.Dense(channels, use_bias=False, dtype=policy, name="expand")
        self.reduce_normalization = _normalization("reduce_normalization", policy)
        self.expand_normalization = _normalization("expand_normalization", policy)
        self.reduce.build(joined)
        self.expand.build((*joined[:-1], inner))
        self.reduce_normalization.build((*joined[:-1], inner))
        self.expand_normalization.build(input_shape[0])

    def call(self, inputs: Sequence[Any], mask: Any = None, training: bool = False) -> Any:
        positions = position_mask(self.compute_mask(inputs, mask), inputs[0])
        options = {"mask": positions, "training": training}
        x = self.reduce(ops.concatenate(inputs, axis=-1))
        x = self.expand(ops.relu(self.reduce_normalization(x, **options)))
        return ops.sigmoid(self.expand_normalization(x, **options))

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        del inputs
        return None if mask is None else mask[0]

    def compute_output_shape(
        self, input_shape: Sequence[tuple[int | None, ...]]
    ) -> tuple[int | None, ...]:
        return tuple(input_shape[0])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "reduction": self.reduction}


@keras.saving.register_keras_serializable(package="keras_mtl")
class AttentionFeatures(keras.layers.Layer):
    """Brings what a task took of one stage to the channels and positions of the next.

    Args:
        name: Optional string. Name of the layer.

    Call arguments:
        inputs: List of the features `(batch, ..., channels)`, and those of the next stage, of
            which only the shape is read; their mask goes along.

    Output shape: that of the second input.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, input_shape: Sequence[tuple[int | None, ...]]) -> None:
        before, after = input_shape
        units, options = after[-1], {"use_bias": False, "dtype": self.dtype_policy}
        if len(after) == 2:
            self.product = keras.layers.Dense(units, name="product", **options)
            before = (before[0], before[-1])
        else:
            convolution = _CONVOLUTIONS[len(after)]
            self.product = convolution(units, 3, padding="same", name="product", **options)
        self.normalization = _normalization("normalization", self.dtype_policy)
        self.product.build(before)
        self.normalization.build((*before[:-1], units))

    def call(self, inputs: Sequence[Any], mask: Any = None, training: bool = False) -> Any:
        x, after = inputs
        present = None if mask is None else mask[0]
        if len(after.shape) == 2:
            x, present = pool(x, "avg", present), None
        positions = position_mask(present, x)
        x = self.product(without_padding(x, positions))
        x = ops.relu(self.normalization(x, mask=positions, training=training))
        # At least 0 everywhere, so that padding never is the largest in a window.
        x = without_padding(x, positions)
        for axis in range(1, len(after.shape) - 1):
            x = resample(x, axis, ops.shape(after)[axis])
        return x

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        del inputs
        return None if mask is None else mask[1]

    def compute_output_shape(
        self, input_shape: Sequence[tuple[int | None, ...]]
    ) -> tuple[int | None, ...]:
        return tuple(input_shape[1])


def _normalization(name: str, policy: Any) -> keras.layers.BatchNormalization:
    # The authors leave PyTorch's momentum of 0.1 and epsilon.
    return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, dtype=policy, name=name)
