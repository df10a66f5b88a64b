"""Weights from how far each loss is from its first value in the epoch."""

import math
from typing import Any

import keras
from keras import ops

from keras_mtl.core import checks, shares
from keras_mtl.weighting.base import LossWeighting

MIN_LOSS = 1e-8
# Losses of 1e8 with this weight can still be squared in float32.
MAX_WEIGHT = 1e10
# No loss is negative here.
UNKNOWN = -1.0


@keras.saving.register_keras_serializable(package="keras_mtl")
class LossBalanced(LossWeighting):
    """Weights tasks by how little their losses fell since the epoch began.

    With F_i the loss of the first step of the epoch that has labels of task i, the weights are
    w_i = (L_i / F_i)^alpha, constants of the step, and the total is sum_i w_i L_i. They are 1 in
    a task's first step, below 1 where its loss has fallen and above 1 where it has risen, and
    have no fixed sum; with `normalize` they sum to the number of active tasks. The unit of a
    loss cancels in its weight, but not in the total. A user's constant c_i multiplies w_i and
    is not undone. F comes from one batch, so small batches make it noisy. Losses in the ratio
    are at least 1e-8, and weights at most 1e10.

    Args:
        alpha: Float in [0, 10]. How strongly the weights follow the ratio: 0 leaves them at 1, 1
            makes them proportional to it.
        normalize: Boolean. Whether weights are scaled to sum to the number of active tasks.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks,)`, mean losses, each >= 0, unscaled.
    Output shape: `()`, the total.

    Raises:
        TypeError: If `alpha` is not a number.
        ValueError: If `alpha` is outside [0, 10], `normalize` is no boolean, or a loss is
            negative.

    Example:

    >>> weighting = keras_mtl.weighting.LossBalanced()
    >>> weighting.compute_weights([4.0, 1.0])
    [1.0, 1.0]
    >>> weighting.update_state([4.0, 1.0], active=[1.0, 1.0])
    >>> weighting.compute_weights([1.0, 1.0])
    [0.5, 1.0]

    Reference:
        S. Liu, Liang, Gitter 2019, Loss-balanced task weighting to reduce negative transfer in
        multi-task learning, https://doi.org/10.1609/aaai.v33i01.33019977; alpha is 0.5 in the
        authors' code, https://github.com/chao1224/Loss-Balanced-Task-Weighting, which scales
        weights as `normalize` does (their later code in SGNN-EBM does not).
        Differs from the paper: a task that is absent from the first step has its own; the two
        bounds.
    """

    takes_negative_losses = False

    def __init__(
        self,
        alpha: float = 0.5,
        normalize: bool = False,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.alpha = checks.finite_number("alpha", alpha, minimum=0, maximum=10)
        checks.one_of("normalize", normalize, (False, True))
        self.normalize = normalize

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        unknown = keras.initializers.Constant(UNKNOWN)
        self.first_losses = self.add_task_variable("first_losses", unknown)

    def call(self, task_losses: Any, active: Any) -> Any:
        # w = (L(t) / L(first step of the epoch))^alpha
        first = ops.maximum(self._first_losses(task_losses), MIN_LOSS)
        logs = self.alpha * ops.log(ops.maximum(task_losses, MIN_LOSS) / first)
        if self.normalize:
            weights = ops.sum(active) * shares.softmax(logs, active)
        else:
            weights = ops.exp(ops.minimum(logs, math.log(MAX_WEIGHT)))
        return ops.sum(active * ops.stop_gradient(weights) * task_losses)

    def _first_losses(self, task_losses: Any) -> Any:
        return ops.where(self.first_losses >= 0, self.first_losses, task_losses)

    def update_state(self, task_losses: Any, active: Any) -> None:
        task_losses, active = self._standardize(task_losses, active)
        first = self._first_losses(task_losses)
        self.first_losses.assign(ops.where(active > 0, first, self.first_losses))

    def on_epoch_begin(self) -> None:
        if self.built:
            self.first_losses.assign(ops.full_like(self.first_losses, UNKNOWN))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "alpha": self.alpha, "normalize": self.normalize}
