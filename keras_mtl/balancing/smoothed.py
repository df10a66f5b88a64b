"""Another method's weights, averaged over the steps."""

from collections.abc import Sequence
from typing import Any, Self

import keras
from keras import ops

from keras_mtl.balancing.base_gramian import GramianBalancing
from keras_mtl.core import checks
from keras_mtl.core.roles import TaskRole


@keras.saving.register_keras_serializable(package="keras_mtl")
class Smoothed(GramianBalancing):
    """Averages the weights that another method finds over the steps.

    With v_t what the method finds in step t, the weights are w_t = m w_{t-1} + (1 - m) v_t. On
    mini-batches v_t depends on the same samples as the gradients that it weights, so their
    weighted sum is biased, and that of MGDA, CAGrad or PCGrad may not converge; w_t changes
    slowly and the bias vanishes as m tends to 1. A task's average begins with the first weight it
    is given, and does not move while it is absent.

    The direction is as long, and a loss weighting before it counts for as much, as with that
    method alone.

    Args:
        balancing: Name, config or object of a method whose direction is a weighted sum of the task
            gradients.
        momentum: Float in [0, 1). The part m of the old weights; 0 smooths nothing.
        scope: `"parameters"` works on the gradients of the shared variables, `"features"` on
            those of the tensors where the shared part ends. The wrapped method's is not used.
        refresh_every: Integer >= 1. Steps from one search for weights to the next.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks, num_params)`, one gradient a row.
    Output shape: `(num_params,)`, the direction to descend.

    Raises:
        TypeError: If `momentum` is not a number, or `balancing` has no weights to smooth.
        ValueError: If `momentum` is not in [0, 1), `balancing` has a `refresh_every` of its own or
            an unknown name, or `scope` is neither of the two or refused by the method.

    Example:

    >>> smoothed = keras_mtl.balancing.Smoothed("mgda", momentum=0.5)
    >>> smoothed.compute_weights([[1.0, 0.0], [0.0, 1.0]])
    [0.5, 0.5]
    >>> smoothed.compute_weights([[1.0, 0.0], [0.0, 9.0]])  # MGDA's own are 0.9 and 0.1
    [0.7, 0.3]

    Reference:
        S. Zhou, Zhang, Jiang, Zhong, Gu, Zhu 2022, On the convergence of stochastic
        multi-objective gradient manipulation and beyond, algorithm 1 (CR-MOGM), NeurIPS.
        Differs from the paper: the average begins with the first weights found, not with given
        ones, and m is constant.
    """

    def __init__(
        self,
        balancing: Any = "mgda",
        momentum: float = 0.9,
        scope: str = "parameters",
        refresh_every: int = 1,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        found = _found(balancing)
        self.features_reason = found.features_reason
        super().__init__(scope=scope, refresh_every=refresh_every, name=name, **kwargs)
        self.balancing = found
        self.momentum = checks.finite_number("momentum", momentum, minimum=0, maximum=1)
        if self.momentum == 1:
            raise ValueError("`momentum` must be below 1, received 1: no weight would ever move.")
        for declared in _DECLARED:
            setattr(self, declared, getattr(found, declared))
        self.weights_remark, self.random = found.weights_remark, found.random

    @property
    def task_variables(self) -> list[Any]:
        """The variables with one entry a task, those of the wrapped method too."""
        return [*super().task_variables, *self.balancing.task_variables]

    def bind(self, roles: Sequence[TaskRole]) -> Self:
        """Tells both methods their tasks."""
        self.balancing.bind(roles)
        return super().bind(roles)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        self.balancing.build_for(self.num_tasks)
        self.average = self.add_task_variable("average")
        self.has_average = self.add_task_variable("has_average")

    def solve(self, gramian: Any, active: Any, **more: Any) -> Any:
        found = ops.cast(self.balancing.find_weights(gramian, active, **more), "float32")
        moved = self.momentum * self.average + (1.0 - self.momentum) * found
        moved = ops.where(self.has_average > 0, moved, found)
        takes_part = active > 0
        self.average.assign(ops.where(takes_part, moved, self.average))
        self.has_average.assign(ops.where(takes_part, 1.0, self.has_average))
        return moved

    def probe(self, active: Any) -> Any:
        return self.balancing.probe(active)

    def head_weights(self, weights: Any, active: Any, **more: Any) -> Any:
        return self.balancing.head_weights(weights, active, **more)

    def on_epoch_begin(self) -> None:
        """Rolls over what the wrapped method keeps by epoch."""
        self.balancing.on_epoch_begin()

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "balancing": keras.saving.serialize_keras_object(self.balancing),
            "momentum": self.momentum,
        }


_DECLARED = (
    "needs_gramian",
    "needs_losses",
    "needs_cross_gramian",
    "needs_cross_products",
    "weights_heads",
)


def _found(balancing: Any) -> GramianBalancing:
    from keras_mtl import balancing as package  # noqa: PLC0415 (it exports this file)

    found = package.get(balancing)
    if not isinstance(found, GramianBalancing):
        raise TypeError(
            "`balancing` must be a method whose direction is a weighted sum of the task gradients, "
            f"received {checks.describe(balancing)}: it has no weights to smooth."
        )
    if found.refresh_every != 1:
        raise ValueError(
            f"`balancing` must have refresh_every=1, received {found.refresh_every}. Give it to "
            "Smoothed instead."
        )
    return found
