"""Weights learned from what they do for the main tasks."""

from collections.abc import Sequence
from typing import Any, Self

import keras
from keras import ops

from keras_mtl.core import checks
from keras_mtl.core.roles import TaskRole
from keras_mtl.core.task_adam import TaskAdam
from keras_mtl.weighting.base import LossWeighting


@keras.saving.register_keras_serializable(package="keras_mtl")
class AutoLambda(LossWeighting):
    """Learns the task weights that help the main tasks most.

    The total is sum_i w_i L_i, with weights that are constants of the step. Before each step one
    is tried out: with theta' = theta - eta grad sum_i w_i L_i on every other row of the batch,
    where eta is the learning rate of the model's optimizer, the sum of the main tasks' losses at
    theta' on the other rows is differentiated with respect to w, and an Adam of its own moves w
    to lower it. So a task whose gradient agrees with that of the main tasks gains weight, and one
    that stands against it loses weight. The main tasks' own weights are learned too.

    Main tasks are those that are not `auxiliary`. They may be all tasks: the paper's multi-task
    setting, in which weights are learned for the sum of the losses. In a step where no main task
    has a label in the other rows, no weight moves; nor does that of a task without a label in the
    rows of the trial. A stopped task counts as absent.

    The weights have no fixed sum. With the default all start at 0.1, so the first steps are ten
    times shorter than those of a plain sum; in each step they move by about `learning_rate`. A
    user's constant c_i multiplies w_i, in the trial as well, but not the main losses that w is
    learned for. As c_i w_i is what counts, the constants set where it starts and how fast it
    moves; in the long run they are undone.

    A trial takes four forward and two backward passes over half a batch: a step costs about 2.3
    times plain Keras (a LeNet with 2 and with 8 tasks).

    Args:
        learning_rate: Float > 0. Adam's, for the weights.
        initial_weight: Float >= 0. Where all weights start.
        nonnegative: Boolean. Whether a weight stops at 0. By default it may fall below, as in
            the authors' code, and then the step raises that task's loss.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks,)`, mean losses, unscaled.
    Output shape: `()`, the total.

    Raises:
        TypeError: If `learning_rate` or `initial_weight` is not a number.
        ValueError: If one is out of its range, or (in `compile`) if all tasks are auxiliary.

    Example:

    >>> weighting = keras_mtl.weighting.AutoLambda()
    >>> weighting.compute_weights([4.0, 1.0])
    [0.1, 0.1]
    >>> weighting.update_from_hypergradient([0.3, -2.0], active=[1.0, 1.0])
    >>> weighting.compute_weights([4.0, 1.0])
    [0.0999, 0.1001]

    Reference:
        S. Liu, James, Davison, Johns 2022, Auto-Lambda: disentangling dynamic task
        relationships, section 4, https://arxiv.org/abs/2202.03091. The defaults are those of the
        authors' code for NYUv2, https://github.com/lorenmt/auto-lambda; it has a learning rate
        of 3e-5 for CityScapes and 3e-4 for CIFAR-100.
        Differs from the paper: the two halves of a batch stand for two batches, drawn apart. The
        code adds the momentum and the weight decay of SGD to the trial step, which here is plain.
    """

    hypergradient = "one_step"

    def __init__(
        self,
        learning_rate: float = 1e-4,
        initial_weight: float = 0.1,
        nonnegative: bool = False,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.learning_rate = checks.positive_number("learning_rate", learning_rate)
        self.initial_weight = checks.finite_number("initial_weight", initial_weight, minimum=0)
        checks.one_of("nonnegative", nonnegative, (False, True))
        self.nonnegative = nonnegative

    def bind(self, roles: Sequence[TaskRole]) -> Self:
        """Tells the method its tasks, of which one at least must not be auxiliary."""
        if all(role.auxiliary for role in roles):
            raise ValueError(
                "`loss_weighting` AutoLambda learns weights for the main tasks, and there are "
                f"none: {[role.name for role in roles]} are all auxiliary. Leave `auxiliary=True` "
                "out of the `Task` that the others are to help."
            )
        return super().bind(roles)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        initializer = keras.initializers.Constant(self.initial_weight)
        self.task_weights = self.add_task_variable("task_weights", initializer)
        self._adam = TaskAdam(self, "adam", self.learning_rate)

    def call(self, task_losses: Any, active: Any) -> Any:
        return ops.sum(active * self.task_weights * task_losses)

    def update_from_hypergradient(self, gradient: Any, active: Any) -> None:
        gradient, active = (ops.convert_to_tensor(x, dtype="float32") for x in (gradient, active))
        self._adam.apply(self.task_weights, gradient, active)
        if self.nonnegative:
            self.task_weights.assign(ops.maximum(self.task_weights, 0.0))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "learning_rate": self.learning_rate,
            "initial_weight": self.initial_weight,
            "nonnegative": self.nonnegative,
        }
