"""Task weights learned so that all tasks train at like rates."""

from typing import Any

import keras
from keras import ops

from keras_mtl.balancing.base_gramian import GramianBalancing
from keras_mtl.core import checks
from keras_mtl.core.task_adam import TaskAdam


@keras.saving.register_keras_serializable(package="keras_mtl")
class GradNorm(GramianBalancing):
    """Learns task weights that make gradient norms fit the tasks' training rates.

    With n_k the norm of a task's gradient and w_k its weight, G_k = w_k n_k. A task's inverse
    training rate r_k is L_k / L_k(0) over the mean of these ratios. The weights descend on
    sum_k |G_k - mean(G) r_k^alpha|, where the second term is a constant, with an Adam of their own;
    then they are scaled to sum to the number of tasks. So long gradients lose weight, and tasks
    that have fallen behind gain it. The heads learn with the weights too: the step descends on
    sum_k w_k L_k.

    The direction is as long as a sum. Positive factors of the losses, such as those of a loss
    weighting, change n_k, and the weights make up for them in the long run. L_k(0) is the loss in
    the first step in which a task takes part; where it is not above 0, its ratio counts as 1. The
    weights of absent tasks do not move; those of the others sum to their number.

    Args:
        alpha: Float >= 0. The strength with which slow tasks are pulled along; 0 only equalises
            norms. The paper takes 1.5 for tasks that differ much, 0.12 for alike ones.
        learning_rate: Float > 0. Adam's, for the weights.
        scope: `"parameters"` takes the norms over all shared variables, `"features"` over the
            tensors where the shared part ends.
        refresh_every: Integer >= 1. Steps from one move of the weights to the next.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks, num_params)`, one gradient a row; `losses`, the raw task losses.
    Output shape: `(num_params,)`, the direction to descend.

    Raises:
        TypeError: If a number is none.
        ValueError: If one is out of its range, or `scope` is neither of the two.

    Example:

    >>> gradnorm = keras_mtl.balancing.GradNorm(learning_rate=0.1)
    >>> gradnorm.compute_weights([[9.0, 0.0], [0.0, 1.0]], losses=[1.0, 1.0])
    [1.0, 1.0]
    >>> gradnorm.compute_weights([[9.0, 0.0], [0.0, 1.0]], losses=[1.0, 1.0])
    [0.9, 1.1]

    Reference:
        Z. Chen, Badrinarayanan, Lee, Rabinovich 2018, GradNorm: gradient normalization for
        adaptive loss balancing in deep multitask networks, equations 1 and 2 and algorithm 1,
        https://arxiv.org/abs/1711.02257; the learning rate is the paper's for NYUv2.
        Differs from the paper: norms are over all that is shared, not over its last layer, and a
        weight that would fall below 0 stops there.
    """

    needs_losses = True
    weights_heads = True
    weights_remark = "its weights make up for positive factors of the losses in the long run."

    def __init__(
        self,
        alpha: float = 1.5,
        learning_rate: float = 0.025,
        scope: str = "parameters",
        refresh_every: int = 1,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(scope=scope, refresh_every=refresh_every, name=name, **kwargs)
        self.alpha = checks.finite_number("alpha", alpha, minimum=0)
        self.learning_rate = checks.positive_number("learning_rate", learning_rate)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        self.task_weights = self.add_task_variable("task_weights", "ones")
        self.initial_losses = self.add_task_variable("initial_losses")
        self.has_begun = self.add_task_variable("has_begun")
        self._adam = TaskAdam(self, "adam", self.learning_rate)

    def solve(self, gramian: Any, active: Any, losses: Any) -> Any:
        # Read first: the step's weights are those that the step before has learned.
        active, losses = ops.cast(active, "float32"), ops.cast(losses, "float32")
        count, total = ops.maximum(ops.sum(active), 1.0), ops.sum(active * self.task_weights)
        used = self.task_weights * count / ops.maximum(total, 1e-30)
        self._begin(active, losses)
        norms = ops.cast(ops.sqrt(ops.cast(ops.diagonal(gramian), "float64")), "float32")
        self._adam.apply(self.task_weights, self._slope(used, norms, losses, active), active)
        self._scale(active, total)
        return used

    def _begin(self, active: Any, losses: Any) -> None:
        begins = ops.logical_and(active > 0, self.has_begun <= 0)
        self.initial_losses.assign(ops.where(begins, losses, self.initial_losses))
        self.has_begun.assign(ops.maximum(self.has_begun, active))

    def _slope(self, weights: Any, norms: Any, losses: Any, active: Any) -> Any:
        """Returns the derivative of sum_k |G_k - mean(G) r_k^alpha| by w_k: sign(...) n_k."""
        count = ops.maximum(ops.sum(active), 1.0)
        # In units of the longest gradient, which Adam does not see.
        norms = active * norms / ops.maximum(ops.max(norms), 1e-30)
        lengths = weights * norms
        known = self.initial_losses > 0
        ratios = ops.where(known, losses / ops.where(known, self.initial_losses, 1.0), 1.0)
        ratios = active * ops.clip(ratios, 0.0, 1e6)
        rates = ratios * count / ops.maximum(ops.sum(ratios), 1e-30)
        targets = ops.sum(lengths) / count * ops.power(ops.maximum(rates, 0.0), self.alpha)
        return ops.sign(lengths - targets) * norms

    def _scale(self, active: Any, total: Any) -> None:
        """Gives the active tasks' weights the sum that they had, so that all sum to K."""
        weights = ops.maximum(self.task_weights, 0.0)
        scaled = weights * total / ops.maximum(ops.sum(active * weights), 1e-30)
        self.task_weights.assign(ops.where(active > 0, scaled, self.task_weights))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "alpha": self.alpha,
            "learning_rate": self.learning_rate,
        }
