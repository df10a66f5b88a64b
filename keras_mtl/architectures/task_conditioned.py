"""Task-conditioned trunk: one trunk, passed once a task, with a few parameters for each task."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras

from keras_mtl.architectures import _graph
from keras_mtl.architectures._columns import stages_of
from keras_mtl.architectures._features import position_mask, with_channels
from keras_mtl.architectures._normalizations import WithOwnNormalizations, check_normalizations
from keras_mtl.core import checks
from keras_mtl.core.rebuild import resolve_trunk
from keras_mtl.model import MultiTaskModel

_NORMALIZATION = "normalization"


def task_conditioned(
    inputs: Any,
    trunk: Any,
    tasks: Mapping[str, Any],
    *,
    condition: str = "film",
    rank: int = 4,
    name: str | None = None,
) -> MultiTaskModel:
    """Builds one trunk that is passed once a task, conditioned on the task.

    All tasks share the trunk, the objects themselves as in `hard_sharing`, but each has its own
    pass of it, so that a step costs as many passes as there are tasks. After stage s task k
    changes the features x, of C channels on the last axis, by

    - `"film"`: `gamma_ks * x + beta_ks` for each channel, at first x. Layers `<task>_film_<s>`,
      2 C parameters each.
    - `"residual_adapter"`: `x + W_ks BN_ks(x)`, W a matrix over the channels (a 1x1 convolution)
      that starts at 0, BN a batch normalization of its own. Layers `<task>_residual_adapter_<s>`,
      C^2 + 4 C parameters each, 2 C of them statistics.
    - `"low_rank"`: `x + B_ks A_ks x`, of `rank`, B starts at 0. After a linear stage it is a change
      of its weights by that rank. Layers `<task>_low_rank_<s>`, 2 C `rank` parameters each.

    Or, in place of these, `"normalization"`: every batch, layer, group and RMS normalization in
    the trunk is made anew for each task, `<task>_<layer>`, from the values that it has; all other
    layers are shared. Each task predicts `head_k(tower_k(features))`. At first the features are
    those of `hard_sharing`. Parameters: those of the trunk once, and for each task those above, of
    its tower and head.

    The trunk is shared, all else is private. No tensor of the trunk serves two tasks, so there
    are no features to balance at; use `scope="parameters"`, as `compile` says. Batch statistics
    of the trunk are those of all passes.

    Args:
        inputs: As in `hard_sharing`.
        trunk: List of layers or models, or function that returns one; for `"normalization"` also
            a single one. Entries of a dict that a stage returns are changed each.
        tasks: Dict from task name to a head or a `keras_mtl.Task`.
        condition: String, `"film"`, `"residual_adapter"`, `"low_rank"` or `"normalization"`.
        rank: Integer >= 1, of `"low_rank"`.
        name: Optional string. Name of the model.

    Returns:
        A `keras_mtl.MultiTaskModel`, whose outputs are a dict by task name.

    Raises:
        TypeError: If `inputs`, `trunk`, `tasks` or an option is something else.
        ValueError: If an option is out of range, the trunk is not a list of stages or has no
            normalization where it needs them, or a task does not fit.

    Example:

    >>> inputs = keras.Input((8,), name="person")
    >>> trunk = [keras.layers.Dense(4, activation="relu"), keras.layers.Dense(3)]
    >>> tasks = {"age": keras_mtl.heads.Regression(), "job": keras_mtl.heads.Classification(3)}
    >>> model = keras_mtl.architectures.task_conditioned(inputs, trunk, tasks)
    >>> model.count_params() == (8 + 1) * 4 + (4 + 1) * 3 + 2 * 2 * (4 + 3) + (3 + 1) * (1 + 3)
    True

    Reference:
        Perez et al. 2018, FiLM: visual reasoning with a general conditioning layer,
        https://arxiv.org/abs/1709.07871. Differs from the paper: gamma and beta are constants
        of the task, where there a network computes them.
        Rebuffi, Bilen, Vedaldi 2017, Learning multiple visual domains with residual adapters,
        https://arxiv.org/abs/1705.08045. Differs from the paper: one adapter a stage, not one a
        convolution; no batch normalization after it; it starts at 0.
        Hu et al. 2022, LoRA: low-rank adaptation of large language models,
        https://arxiv.org/abs/2106.09685. Differs from the paper: it acts on the outputs of
        stages, after any activation, not on each matrix; no factor alpha / rank.
    """
    # Layers.
    tasks = _graph.checked_tasks(tasks)
    checks.one_of("condition", condition, (*_CONDITIONS, _NORMALIZATION))
    rank = checks.positive_integer("rank", rank)
    sources = _graph.model_inputs(inputs)
    if condition == _NORMALIZATION:
        stages = resolve_trunk(trunk)
        check_normalizations(stages)
    else:
        stages = stages_of(trunk, "task_conditioned")
    layers = _graph.task_layers(tasks)

    # Functional model.
    read = _graph.trunk_inputs(inputs, stages[0], tasks)
    outputs = {}
    for key, task in tasks.items():
        features = _pass(key, stages, read, condition, rank)
        outputs[key] = _graph.task_output(key, task, layers[key], features, sources)

    # Config.
    return _graph.multi_task_model(sources, outputs, tasks, name)


def _pass(
    task: str, stages: Iterable[keras.layers.Layer], features: Any, condition: str, rank: int
) -> Any:
    """Returns what the trunk makes of `features` for one task."""
    if condition == _NORMALIZATION:
        own = [WithOwnNormalizations(stage, task) for stage in stages]
        return _graph.apply_stages(own, features)
    options = {"rank": rank} if condition == "low_rank" else {}
    for index, stage in enumerate(stages):
        features = _graph.apply_stages([stage], features)
        features = _conditioned(
            lambda name: _CONDITIONS[condition](name=name, **options),
            features,
            stage,
            f"{task}_{condition}_{index}",
        )
    return features


def _conditioned(
    make: Callable[[str], keras.layers.Layer], features: Any, stage: Any, name: str
) -> Any:
    if isinstance(features, Mapping):
        return {key: _conditioned(make, x, stage, f"{name}_{key}") for key, x in features.items()}
    if not keras.backend.is_float_dtype(features.dtype):
        return features  # a mask among the entries of a dict
    return make(name)(with_channels(features, stage, "task_conditioned"))


@keras.saving.register_keras_serializable(package="keras_mtl")
class FiLM(keras.layers.Layer):
    """Scales and shifts each channel: gamma * x + beta, at first x.

    Input shape: `(batch, ..., channels)`.
    Output shape: the same; masks go along.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        shape = input_shape[-1:]
        self.gamma = self.add_weight(shape=shape, initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=shape, initializer="zeros", name="beta")

    def call(self, inputs: Any) -> Any:
        return self.gamma * inputs + self.beta

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape


@keras.saving.register_keras_serializable(package="keras_mtl")
class ResidualAdapter(keras.layers.Layer):
    """Adds a matrix times the normalised channels: x + W BN(x), at first x.

    Input shape: `(batch, ..., channels)`.
    Output shape: the same; masks go along, and leave padding out of the statistics.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.normalization = keras.layers.BatchNormalization(
            dtype=self.dtype_policy, name="normalization"
        )

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.normalization.build(input_shape)
        channels = input_shape[-1]
        self.kernel = self.add_weight(
            shape=(channels, channels), initializer="zeros", name="kernel"
        )

    def call(self, inputs: Any, training: bool = False, mask: Any = None) -> Any:
        positions = position_mask(mask, inputs)
        normalized = self.normalization(inputs, training=training, mask=positions)
        return inputs + keras.ops.matmul(normalized, self.kernel)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape


@keras.saving.register_keras_serializable(package="keras_mtl")
class LowRank(keras.layers.Layer):
    """Adds a matrix of low rank times the channels: x + B A x, at first x.

    Args:
        rank: Integer >= 1.
        name: Optional string. Name of the layer.

    Input shape: `(batch, ..., channels)`.
    Output shape: the same; masks go along.
    """

    def __init__(self, rank: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rank = checks.positive_integer("rank", rank)
        self.supports_masking = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        channels = input_shape[-1]
        self.a = self.add_weight(
            shape=(channels, self.rank), initializer="glorot_uniform", name="a"
        )
        self.b = self.add_weight(shape=(self.rank, channels), initializer="zeros", name="b")

    def call(self, inputs: Any) -> Any:
        return inputs + keras.ops.matmul(keras.ops.matmul(inputs, self.a), self.b)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rank": self.rank}


_CONDITIONS = {"film": FiLM, "residual_adapter": ResidualAdapter, "low_rank": LowRank}
