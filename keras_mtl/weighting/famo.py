"""Weights under which all losses fall at like rates."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Self

import keras
from keras import ops

from keras_mtl.core import checks, shares, task_values
from keras_mtl.core.roles import TaskRole
from keras_mtl.core.task_adam import TaskAdam
from keras_mtl.weighting.base import LossWeighting


@keras.saving.register_keras_serializable(package="keras_mtl")
class FAMO(LossWeighting):
    """Weights losses so that all of them fall at like rates.

    With one logit x_i a task, shares z = softmax(x) over the active tasks, and D_i = L_i -
    min_losses_i + epsilon, the total is sum_i c z_i log D_i and w_i = c z_i / D_i. Here
    c = 1 / sum_i (z_i / D_i) is a constant of the step, as are the shares. So the weights sum to
    1: over m tasks the steps are about m times shorter than those of a plain sum. After the step
    the same batch is measured again, with the same dropout masks and batch statistics that do
    not move: a task whose log D_i fell by less than the average under z gains share. The logits
    are moved by an Adam of their own, for the tasks that are present.

    The second forward pass makes a step cost about 1.3 times plain Keras (a LeNet with 2 and with
    8 tasks). `lagged=True` does without it, at next to no cost: it compares a step's losses with
    those of the step before (for each task, of the last step that had it). The two are of
    different batches, so it learns from noise as well: it suits large batches.

    A user's constants `loss_weights` multiply the weights, and the logits are not told of them.
    But they see what follows: a task that is favoured falls faster, so it loses share, and in
    the long run the preference is partly undone.

    Args:
        learning_rate: Float > 0. Adam's, for the logits.
        weight_decay: Float >= 0. The L2 penalty that Adam adds to the logits' gradients, the
            paper's gamma; the larger, the nearer the shares stay to equal ones.
        lagged: Boolean. Whether losses are compared from step to step, without a second pass.
        min_losses: Optional dict from task name to float >= 0 (or a list, in the order of the
            tasks), in units of the losses: what a loss cannot fall below. By default 0. A loss
            at or below it takes nearly all the weight, so give a bound, not a goal.
        epsilon: Float in [1e-12, 1], in units of the losses. Keeps D above 0; raise it where
            losses reach their minimum, as hinge losses do.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks,)`, mean losses, each >= 0, unscaled.
    Output shape: `()`, the total.

    Raises:
        TypeError: If a number is none, or `min_losses` neither a dict nor a list.
        ValueError: If a number is out of its range, a name is of no task, or a loss is negative.

    Example:

    >>> weighting = keras_mtl.weighting.FAMO()
    >>> weighting.compute_weights([1.0, 2.0])
    [0.66667, 0.33333]
    >>> active = [1.0, 1.0]
    >>> weighting.update_from_fresh_losses([1.0, 2.0], [0.5, 2.0], active)  # only the first fell
    >>> weighting.logits
    [-0.025, 0.025]

    Reference:
        B. Liu, Feng, Stone, Q. Liu 2023, FAMO: fast adaptive multitask optimization, algorithm 2
        (appendix C), https://arxiv.org/abs/2306.03792. The defaults are those of the authors'
        code, https://github.com/Cranial-XIX/FAMO, whose experiments use a weight decay of 1e-3
        (as does algorithm 2) or 1e-2.
        Differs from the paper: shares run over the active tasks; the second pass repeats the
        dropout masks and moves no statistics; gradients are clipped only if the model's optimizer
        does it, where the code limits their norm to 1. `lagged=True` is not in the paper.
    """

    takes_negative_losses = False

    def __init__(
        self,
        learning_rate: float = 0.025,
        weight_decay: float = 0.01,
        lagged: bool = False,
        min_losses: Mapping[str, float] | Sequence[float] | None = None,
        epsilon: float = 1e-8,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        at_least_0 = functools.partial(checks.finite_number, minimum=0)
        self.learning_rate = checks.positive_number("learning_rate", learning_rate)
        self.weight_decay = at_least_0("weight_decay", weight_decay)
        checks.one_of("lagged", lagged, (False, True))
        self.lagged = lagged
        self.needs_fresh_losses = not lagged
        self.min_losses = task_values.checked("min_losses", min_losses, at_least_0)
        self.epsilon = checks.finite_number("epsilon", epsilon, minimum=1e-12, maximum=1.0)

    def bind(self, roles: Sequence[TaskRole]) -> Self:
        """Tells the method its tasks; names that are none of them are errors."""
        super().bind(roles)
        self._minima()
        return self

    def _minima(self) -> Any:
        numbers = task_values.in_order(
            "min_losses", self.min_losses, self.num_tasks, self.roles, default=0.0
        )
        return ops.convert_to_tensor(numbers, dtype="float32")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        self.logits = self.add_task_variable("logits")
        self._adam = TaskAdam(
            self, "adam", self.learning_rate, weight_decay=self.weight_decay, epsilon=1e-8
        )
        if self.lagged:
            self.last_losses = self.add_task_variable("last_losses")
            self.seen = self.add_task_variable("seen")

    def call(self, task_losses: Any, active: Any) -> Any:
        distances = self._distances(task_losses)
        # w_i = c z_i / D_i = softmax(x - log D)_i, which neither over- nor underflows.
        logits = self.logits - ops.log(distances)
        weights = shares.softmax(logits, active)
        # sum_i c z_i log D_i, with c z_i = w_i D_i a constant
        factors = ops.stop_gradient(weights * distances)
        return ops.sum(active * factors * ops.log(distances))

    def _distances(self, task_losses: Any) -> Any:
        above = task_losses - self._minima()
        # Below the minimum the value stays, and the derivative is 1 all the same.
        return above + ops.stop_gradient(ops.maximum(-above, 0.0)) + self.epsilon

    def update_from_fresh_losses(self, task_losses: Any, fresh_losses: Any, active: Any) -> None:
        task_losses, active = self._standardize(task_losses, active)
        self._learn(task_losses, ops.convert_to_tensor(fresh_losses, dtype="float32"), active)

    def update_state(self, task_losses: Any, active: Any) -> None:
        if not self.lagged:
            return
        task_losses, active = self._standardize(task_losses, active)
        self._learn(self.last_losses, task_losses, active * self.seen)
        present = ops.logical_and(active > 0, ops.isfinite(task_losses))
        self.last_losses.assign(ops.where(present, task_losses, self.last_losses))
        self.seen.assign(ops.where(present, 1.0, self.seen))

    def _learn(self, before: Any, after: Any, active: Any) -> None:
        """Moves the logits by what the losses of the active tasks became."""
        finite = ops.logical_and(ops.isfinite(before), ops.isfinite(after))
        known = ops.logical_and(active > 0, finite)
        before, after = (ops.where(known, losses, 1.0) for losses in (before, after))
        progress = ops.log(self._distances(before)) - ops.log(self._distances(after))
        # The derivative of sum_i z_i progress_i with respect to the logits.
        known = ops.cast(known, "float32")
        z = shares.softmax(self.logits, known)
        gradient = z * (progress - ops.sum(z * progress))
        self._adam.apply(self.logits, gradient, known)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "lagged": self.lagged,
            "min_losses": self.min_losses,
            "epsilon": self.epsilon,
        }
