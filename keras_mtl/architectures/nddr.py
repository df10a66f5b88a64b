"""Neural discriminative dimensionality reduction: a column a task, fused after each stage."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_mtl.architectures import _graph
from keras_mtl.architectures._columns import stages_of, task_columns
from keras_mtl.architectures._features import position_mask, with_channels
from keras_mtl.core import checks
from keras_mtl.model import MultiTaskModel


def nddr(
    inputs: Any,
    trunk: Any,
    tasks: Mapping[str, Any],
    *,
    alpha: float = 0.9,
    beta: float = 0.1,
    activation: Any = "relu",
    kernel_regularizer: Any = None,
    copy_weights: bool = False,
    name: str | None = None,
) -> MultiTaskModel:
    """Builds a column a task, whose features are fused after each stage (NDDR-CNN).

    Each column is a copy of the trunk. With `x_1 ... x_K` what the K columns make in a stage, task
    k goes on with `activation(batch_norm([x_1, ..., x_K] W_k))`: the channels of all tasks, joined
    and reduced to those of one by a 1x1 convolution, which on dense and sequence features is a
    product on the last axis. W_k begins as `alpha` times the identity for the task's own channels
    and `beta / (K - 1)` times it for those of each other task.

    Columns are named `<task>_<stage>`, the fusions `<task>_fusion_<index>`, from stage 0 on.
    Parameters: K times those of the trunk, `K * (K channels^2 + 4 channels)` after each stage (the
    4 are those of batch normalization), and those of each tower and head.

    All columns are shared by all tasks, as are the fusions but the last, which are private;
    sharing ends at the columns' outputs.

    Args:
        inputs: As in `hard_sharing`.
        trunk: List of layers or models, or function that returns one; rebuilt for each task, with
            other initial values in each. Each stage returns one tensor `(batch, ..., channels)`.
        tasks: Dict from task name to a head or a `keras_mtl.Task`.
        alpha: Float >= 0. Initial weight of the task's own features.
        beta: Float >= 0. Initial weight of the features of all other tasks together.
        activation: Activation of the fused features, by name or function; `None` for none, which
            suits stages that end without one.
        kernel_regularizer: Optional regularizer of every W_k.
        copy_weights: Boolean. Whether every column starts from the trunk's weights.
        name: Optional string. Name of the model.

    Returns:
        A `keras_mtl.MultiTaskModel`, whose outputs are a dict by task name.

    Raises:
        TypeError: If `inputs`, `trunk`, `tasks` or an option is something else.
        ValueError: If an option is out of range, the trunk is no list of stages or cannot be
            rebuilt, a stage returns what has no channels, or a task does not fit.

    Example:

    >>> inputs = keras.Input((8,), name="person")
    >>> trunk = [keras.layers.Dense(4, activation="relu"), keras.layers.Dense(3)]
    >>> tasks = {"age": keras_mtl.heads.Regression(), "job": keras_mtl.heads.Classification(3)}
    >>> model = keras_mtl.architectures.nddr(inputs, trunk, tasks)
    >>> columns, heads = 2 * ((8 + 1) * 4 + (4 + 1) * 3), (3 + 1) * (1 + 3)
    >>> model.count_params() == columns + 2 * (2 * 4**2 + 4 * 4 + 2 * 3**2 + 4 * 3) + heads
    True

    Reference:
        Y. Gao et al. 2019, NDDR-CNN: layerwise feature fusing in multi-task CNNs by neural
        discriminative dimensionality reduction, https://arxiv.org/abs/1801.08297; decay and
        epsilon of batch normalization as in https://github.com/ethanygao/NDDR-CNN.
        Differs from the paper: `beta` is divided among any number of other tasks; weight decay is
        left to `kernel_regularizer` or the optimizer; the fusions have no larger learning rate.
    """
    # Layers.
    tasks = _graph.checked_tasks(tasks)
    shares = {key: _shares(index, len(tasks), alpha, beta) for index, key in enumerate(tasks)}
    sources = _graph.model_inputs(inputs)
    stages = stages_of(trunk, "nddr")
    columns = task_columns(stages, tasks, copy_weights=copy_weights)
    layers = _graph.task_layers(tasks)

    # Functional model.
    read = _graph.trunk_inputs(inputs, stages[0], tasks)
    features = dict.fromkeys(tasks, read)
    for index, stage in enumerate(stages):
        made = [columns[key].stage(index, features[key]) for key in tasks]
        made = [with_channels(x, stage, "nddr") for x in made]
        for key in tasks:
            fusion = Fusion(
                shares[key], activation, kernel_regularizer, name=f"{key}_fusion_{index}"
            )
            features[key] = fusion(made)
    outputs = {
        key: _graph.task_output(key, task, layers[key], features[key], sources)
        for key, task in tasks.items()
    }

    # Config.
    return _graph.multi_task_model(sources, outputs, tasks, name)


def _shares(own: int, num_tasks: int, alpha: float, beta: float) -> list[float]:
    """Returns with which weight a task begins to take the features of each."""
    alpha = checks.finite_number("alpha", alpha, minimum=0)
    beta = checks.finite_number("beta", beta, minimum=0)
    others = num_tasks - 1
    shares = [alpha if index == own else beta / others for index in range(num_tasks)]
    if not any(shares):
        # Zeros would stay: neither they nor what they multiply would get a gradient.
        raise ValueError(
            f"`alpha` and `beta` must not both be 0, received {checks.describe(alpha)} and "
            f"{checks.describe(beta)}. Give one that is positive; alone, a task has only `alpha`."
        )
    return shares


@keras.saving.register_keras_serializable(package="keras_mtl")
class Fusion(keras.layers.Layer):
    """Joins the features of all tasks and reduces them to the channels of one.

    Args:
        shares: List of floats, one a task. W begins with each times the identity, one below the
            other.
        activation: Name or function, or `None`.
        kernel_regularizer: Optional regularizer of W.
        name: Optional string. Name of the layer.

    Call arguments:
        inputs: List of tensors `(batch, ..., channels)` of one shape, one a task. The mask of the
            first goes along; what it leaves out is not in the statistics of the batch.

    Output shape: that of one input.
    """

    def __init__(
        self,
        shares: Sequence[float],
        activation: Any = "relu",
        kernel_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.shares = list(shares)
        self.activation = keras.activations.get(activation)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.normalization = keras.layers.BatchNormalization(
            momentum=0.95, epsilon=1e-3, dtype=self.dtype_policy, name="normalization"
        )
        self.supports_masking = True

    def build(self, input_shape: Sequence[tuple[int | None, ...]]) -> None:
        channels = input_shape[0][-1]
        self.kernel = self.add_weight(
            shape=(len(self.shares) * channels, channels),
            initializer=self._diagonal,
            regularizer=self.kernel_regularizer,
            name="kernel",
        )
        self.normalization.build(input_shape[0])

    def _diagonal(self, shape: tuple[int, ...], dtype: Any = None) -> Any:
        identity = ops.eye(shape[1], dtype=dtype)
        return ops.concatenate([share * identity for share in self.shares], axis=0)

    def call(self, inputs: Sequence[Any], mask: Any = None, training: bool = False) -> Any:
        x = ops.matmul(ops.concatenate(inputs, axis=-1), self.kernel)
        positions = position_mask(self.compute_mask(inputs, mask), x)
        return self.activation(self.normalization(x, training=training, mask=positions))

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        del inputs
        return None if mask is None else mask[0]

    def compute_output_shape(
        self, input_shape: Sequence[tuple[int | None, ...]]
    ) -> tuple[int | None, ...]:
        return tuple(input_shape[0])

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "shares": self.shares,
            "activation": keras.activations.serialize(self.activation),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
        }
