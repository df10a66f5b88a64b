"""Soft parameter sharing: a trunk for each task, tied by a penalty on their weights."""

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import keras
from keras import ops

from keras_mtl.architectures import _graph
from keras_mtl.architectures._columns import task_columns
from keras_mtl.core import checks
from keras_mtl.core.rebuild import resolve_trunk
from keras_mtl.model import MultiTaskModel

# Singular values below sqrt(this) of their root mean square are smoothed: rounding in float32
# leaves as much of those that are 0.
_SMOOTHING = 1e-5


def soft_sharing(
    inputs: Any,
    trunk: Any,
    tasks: Mapping[str, Any],
    *,
    strength: float = 1e-3,
    norm: str = "l2",
    copy_weights: bool = False,
    name: str | None = None,
) -> MultiTaskModel:
    """Builds a trunk for each task, tied by a penalty on their weights.

    Task k predicts `head_k(tower_k(trunk_k(inputs)))`, its trunk a copy. The loss gets `strength`
    times, summed over the variables w of the trunk,

    - `"l2"`: `sum_(i < j) ||w_i - w_j||^2`, the squared distances of all pairs of tasks, which
      pulls the copies together;
    - `"trace"`: the sum of the singular values of the matrix of the flattened w_i, a row a task,
      which pulls it to a low rank: tasks that are combinations of fewer. Of kernels and other
      variables of two axes or more only, since it pulls to 0 as well. Singular values that are
      small beside the others, by 0.003, are smoothed, so that gradients are finite.

    The penalty is a term as those of `kernel_regularizer`: `evaluate` adds it to `loss`, and no
    loss weighting or balancing touches it. Batch statistics are not tied. The copies are named
    `<task>_<stage>`, or `<task>_column` of a single stage. Parameters: those of the trunk, tower
    and head, once a task. `model.task_model(task)` has those of that task alone.

    What `inputs` are computed from (a stem) is shared and ends sharing; all else is private.
    Without a stem there is nothing for a gradient balancing to work on, as `compile` says.

    Args:
        inputs: As in `hard_sharing`.
        trunk: As in `hard_sharing`; rebuilt for each task, with other initial values in each.
        tasks: Dict from task name to a head or a `keras_mtl.Task`.
        strength: Float >= 0. Factor of the penalty; 0 trains each task alone.
        norm: String, `"l2"` or `"trace"`.
        copy_weights: Boolean. Whether every copy starts from the trunk's weights.
        name: Optional string. Name of the model.

    Returns:
        A `keras_mtl.MultiTaskModel`, whose outputs are a dict by task name. `clone` and model
        files keep the penalty; `keras.models.clone_model` keeps it of compiled models only.

    Raises:
        TypeError: If `inputs`, `trunk`, `tasks` or an option is something else.
        ValueError: If an option is out of range, the trunk cannot be rebuilt, or a task does
            not fit.

    Example:

    >>> inputs = keras.Input((8,), name="person")
    >>> trunk = keras.layers.Dense(4, activation="relu")
    >>> tasks = {"age": keras_mtl.heads.Regression(), "job": keras_mtl.heads.Classification(3)}
    >>> model = keras_mtl.architectures.soft_sharing(inputs, trunk, tasks, strength=0.01)
    >>> model.count_params() == 2 * (8 + 1) * 4 + (4 + 1) * (1 + 3)
    True

    Reference:
        Duong, Cohn, Bird, Cook 2015, Low resource dependency parsing: cross-lingual parameter
        sharing in a neural network parser, https://aclanthology.org/P15-2139 (`"l2"`).
        Yang, Hospedales 2017, Trace norm regularised deep multi-task learning,
        https://arxiv.org/abs/1606.04038 (`"trace"`, its last axis flattening).
        Differs from the papers: any number of tasks; one strength for all variables; the L2
        distance ties all of the trunk, where Duong et al. leave out word embeddings.
    """
    # Layers.
    tasks = _graph.checked_tasks(tasks)
    strength = checks.finite_number("strength", strength, minimum=0)
    checks.one_of("norm", norm, tuple(_PENALTIES))
    sources = _graph.model_inputs(inputs)
    stages = resolve_trunk(trunk)
    layers = _graph.task_layers(tasks)
    columns = task_columns(stages, tasks, copy_weights=copy_weights)

    # Functional model.
    read = _graph.trunk_inputs(inputs, stages[0], tasks)
    outputs = {
        key: _graph.task_output(key, task, layers[key], columns[key](read), sources)
        for key, task in tasks.items()
    }

    # Config.
    tied = [list(names) for names in zip(*map(_names, columns.values()), strict=True)]
    tie = {"layers": tied, "strength": strength, "norm": norm}
    return _graph.multi_task_model(sources, outputs, tasks, name, partial(TiedModel, tie=tie))


def _names(column: Any) -> list[str]:
    # Each once, also of a stage that comes twice.
    return list(dict.fromkeys(stage.name for stage in column.stages))


@keras.saving.register_keras_serializable(package="keras_mtl")
class TiedModel(MultiTaskModel):
    """A multi-task model with a penalty on how layers of equal shape differ.

    Args:
        inputs: As in `MultiTaskModel`.
        outputs: As in `MultiTaskModel`.
        name: Optional string. Name of the model.
        tie: Optional dict with `"layers"`, a list of lists of names of layers, each tied to one
            another, and `"strength"` and `"norm"` as in `soft_sharing`.
        **kwargs: As in `MultiTaskModel`.
    """

    def __init__(
        self,
        inputs: Any,
        outputs: Any,
        name: str | None = None,
        *,
        tie: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(inputs, outputs, name=name, **kwargs)
        self._tie = _frozen(tie)

    def penalty(self) -> Any:
        """Returns the term that the tied layers add to the loss, a float32 scalar."""
        norm = _PENALTIES[self._tie["norm"]]
        terms = [
            norm(_rows(variables))
            for names in self._tie["layers"]
            for variables in zip(*(self.get_layer(name).weights for name in names), strict=True)
            # Also where one of them is frozen: it pulls the others. Statistics all are.
            if any(variable.trainable for variable in variables)
        ]
        return self._tie["strength"] * ops.cast(sum(terms), "float32")

    def _get_own_losses(self) -> list[Any]:
        # Not by `add_loss` in `call`: there, under mixed precision, variables are read in float16.
        own = super()._get_own_losses()
        return [*own, self.penalty()] if self._tie["strength"] else own

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "tie": _plain(self._tie)}

    def get_compile_config(self) -> dict[str, Any]:
        """Returns the arguments of `compile`, serialised, and the tie, for `clone_model`."""
        config = super().get_compile_config()
        return {**config, "tie": _plain(self._tie)} if config else {}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles with what `get_compile_config` returned."""
        config = dict(config)
        self._tie = _frozen(config.pop("tie"))
        super().compile_from_config(config)


def _frozen(tie: Mapping[str, Any] | None) -> Mapping[str, Any]:
    # Not a dict of lists, which Keras would track.
    given = tie or {"layers": [], "strength": 0.0, "norm": "l2"}
    return MappingProxyType({**given, "layers": tuple(map(tuple, given["layers"]))})


def _plain(tie: Mapping[str, Any]) -> dict[str, Any]:
    return {**tie, "layers": [list(names) for names in tie["layers"]]}


def _rows(variables: Sequence[Any]) -> Any:
    """Returns variables of one shape, flattened, as rows of float32 or finer."""
    dtype = keras.backend.result_type(*(variable.dtype for variable in variables), "float32")
    return ops.stack([ops.cast(variable, dtype) for variable in variables])


def squared_distances(stacked: Any) -> Any:
    """Returns sum_(i < j) ||w_i - w_j||^2.

    Args:
        stacked: Tensor `(num_tasks, ...)`.
    """
    # Equal to K sum_i ||w_i - mean||^2.
    count = stacked.shape[0]
    return count * ops.sum(ops.square(stacked - ops.mean(stacked, axis=0, keepdims=True)))


def trace_norm(stacked: Any) -> Any:
    """Returns the sum of the singular values of `(num_tasks, size)`, smooth where they are 0.

    Args:
        stacked: Tensor `(num_tasks, ...)`; of one axis a task, the result is 0.
    """
    if len(stacked.shape) < 3:
        return ops.zeros((), stacked.dtype)
    rows = ops.reshape(stacked, (stacked.shape[0], -1))
    # In units of its own length, as a constant: the norm is homogeneous, so the gradient is right.
    length = ops.stop_gradient(ops.norm(rows))
    # On what is not finite the eigenvalues would raise; so the result is NaN.
    usable = ops.logical_and(ops.isfinite(length), length > 0)
    rows = ops.where(usable, rows, 0.0) / ops.where(usable, length, 1.0)
    # Their squares are the eigenvalues of a matrix as small as the number of tasks.
    squares, _ = ops.linalg.eigh(ops.matmul(rows, ops.transpose(rows)))
    squares = ops.maximum(squares, 0.0)
    return length * ops.sum(squares / ops.sqrt(squares + _SMOOTHING / rows.shape[0]))


_PENALTIES = {"l2": squared_distances, "trace": trace_norm}
