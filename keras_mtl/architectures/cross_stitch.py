"""Cross-stitch networks: a column a task, stitched together between the stages."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_mtl.architectures import _graph
from keras_mtl.architectures._columns import stages_of, task_columns
from keras_mtl.architectures._features import with_channels
from keras_mtl.core import checks
from keras_mtl.model import MultiTaskModel


def cross_stitch(
    inputs: Any,
    trunk: Any,
    tasks: Mapping[str, Any],
    *,
    alpha_same: float = 0.9,
    per_channel: bool = False,
    copy_weights: bool = False,
    name: str | None = None,
) -> MultiTaskModel:
    """Builds a column a task, each of which reads the others between stages.

    Each column is a copy of the trunk. With `x_1 ... x_K` what the K columns make in a stage, the
    column of task k goes on with `sum_j alpha_kj x_j`, after each stage but the last. alpha is
    learned; alpha_kk begins as `alpha_same`, and the others share the rest to 1 equally, so that
    features keep their scale for any number of tasks. At 1 the columns begin as independent
    networks.

    Columns are named `<task>_<stage>`, the stitches `<task>_stitch_<index>`, from stage 0 on; each
    holds the alphas of its task. Parameters: K times those of the trunk, `K^2` for each stage but
    the last, or `K^2 channels` with `per_channel=True`, and those of each tower and head.

    The columns but for their last stage are shared by all tasks, as are the stitches but the last.
    The last stitches and stages are private; sharing ends at what the columns make before them.

    Args:
        inputs: As in `hard_sharing`.
        trunk: List of at least two layers or models, or function that returns one; rebuilt for
            each task, with other initial values in each. Each stage but the last returns one
            tensor of floats `(batch, ..., channels)`.
        tasks: Dict from task name to a head or a `keras_mtl.Task`.
        alpha_same: Float from 0 to 1. Initial weight of a task's own features.
        per_channel: Boolean. Whether each channel has its own alphas, as in the paper, or all of
            a stage have the same.
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
    >>> model = keras_mtl.architectures.cross_stitch(inputs, trunk, tasks)
    >>> columns, heads = 2 * ((8 + 1) * 4 + (4 + 1) * 3), (3 + 1) * (1 + 3)
    >>> model.count_params() == columns + 2**2 + heads
    True

    Reference:
        Misra et al. 2016, Cross-stitch networks for multi-task learning, equation 1 and, for the
        initial values, section 5.1 and table 1, https://arxiv.org/abs/1604.03539. Differs from the
        paper: any number of tasks; by default one alpha for all channels; the alphas have the
        learning rate of all weights, where the paper's is 100 to 1000 times larger (table 2).
    """
    # Layers.
    tasks = _graph.checked_tasks(tasks)
    alpha_same = checks.finite_number("alpha_same", alpha_same, minimum=0, maximum=1)
    checks.one_of("per_channel", per_channel, (False, True))
    sources = _graph.model_inputs(inputs)
    stages = stages_of(trunk, "cross_stitch")
    _check_length(stages)
    columns = task_columns(stages, tasks, copy_weights=copy_weights)
    layers = _graph.task_layers(tasks)

    # Functional model.
    features = dict.fromkeys(tasks, _graph.trunk_inputs(inputs, stages[0], tasks))
    for index, stage in enumerate(stages):
        features = {key: columns[key].stage(index, features[key]) for key in tasks}
        if index < len(stages) - 1:
            made = [with_channels(x, stage, "cross_stitch") for x in features.values()]
            features = {
                key: Stitch(own, alpha_same, per_channel, name=f"{key}_stitch_{index}")(made)
                for own, key in enumerate(tasks)
            }
    outputs = {
        key: _graph.task_output(key, task, layers[key], features[key], sources)
        for key, task in tasks.items()
    }

    # Config.
    return _graph.multi_task_model(sources, outputs, tasks, name)


def _check_length(stages: Sequence[keras.layers.Layer]) -> None:
    if len(stages) < 2:
        raise ValueError(
            "`trunk` of cross_stitch must have at least two stages, between which columns are "
            f"stitched, received only '{stages[0].name}'. Split it."
        )


@keras.saving.register_keras_serializable(package="keras_mtl")
class Stitch(keras.layers.Layer):
    """Adds the features of all tasks, each times its alpha: sum_j alpha_j x_j.

    Args:
        own: Integer >= 0. Which of the inputs is the task's own; its mask goes along.
        alpha_same: Float from 0 to 1. Initial alpha of the task's own features; the others begin
            with equal parts of the rest. A task without others begins with 1.
        per_channel: Boolean. Whether each channel has its own alphas.
        name: Optional string. Name of the layer.

    Call arguments:
        inputs: List of tensors `(batch, ..., channels)` of one shape, one a task.

    Output shape: that of one input.
    """

    def __init__(
        self, own: int, alpha_same: float = 0.9, per_channel: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.own = own
        self.alpha_same = alpha_same
        self.per_channel = bool(per_channel)
        self.supports_masking = True

    def build(self, input_shape: Sequence[tuple[int | None, ...]]) -> None:
        channels = (input_shape[0][-1],) if self.per_channel else ()
        self.alpha = self.add_weight(
            shape=(len(input_shape), *channels), initializer=self._near_identity, name="alpha"
        )

    def _near_identity(self, shape: tuple[int, ...], dtype: Any = None) -> Any:
        others = shape[0] - 1
        rest = (1.0 - self.alpha_same) / max(others, 1)
        shares = [self.alpha_same if index == self.own else rest for index in range(shape[0])]
        column = ops.reshape(shares if others else [1.0], (-1, *(1 for _ in shape[1:])))
        return ops.cast(ops.broadcast_to(column, shape), dtype)

    def call(self, inputs: Sequence[Any], mask: Any = None) -> Any:
        del mask
        parts = [self.alpha[index] * x for index, x in enumerate(inputs)]
        return sum(parts[1:], start=parts[0])

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        del inputs
        return None if mask is None else mask[self.own]

    def compute_output_shape(
        self, input_shape: Sequence[tuple[int | None, ...]]
    ) -> tuple[int | None, ...]:
        return tuple(input_shape[self.own])

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "own": self.own,
            "alpha_same": self.alpha_same,
            "per_channel": self.per_channel,
        }
