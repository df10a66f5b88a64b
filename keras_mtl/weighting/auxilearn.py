"""Auxiliary losses weighted by what they do for the main tasks in the end."""

from collections.abc import Sequence
from typing import Any, Self

import keras
from keras import ops

from keras_mtl.core import checks
from keras_mtl.core.roles import TaskRole
from keras_mtl.core.task_adam import TaskAdam
from keras_mtl.weighting.base import LossWeighting

# The learning rate is a factor of these gradients, which may lie far below Adam's usual 1e-8.
EPSILON = 1e-12


@keras.saving.register_keras_serializable(package="keras_mtl")
class AuxiLearn(LossWeighting):
    """Learns the weights of auxiliary losses that leave the main tasks best off.

    The total is the sum of the main tasks' losses and sum_k w_k L_k over the auxiliary tasks, with
    weights w_k >= 0 that are constants of the step. Before each step the batch is split by every
    other row, into A and B. With H the Hessian on A of the total and the regularizers, and v the
    gradient on B of the main losses, an Adam of its own moves w_k along the derivative
    -v . H^-1 grad L_k(A): what w_k does to the main losses by way of the optimum that training
    would reach (implicit differentiation). A task whose labels carry nothing for the main tasks
    pulls that optimum away from theirs and loses weight. The inverse is the Neumann series
    alpha sum_{j <= truncation} (I - alpha H)^j: as far as truncation + 1 steps of plain gradient
    descent get. A product with H is a difference of gradients, as in DARTS.

    Main tasks, those that are not `auxiliary`, keep weight 1; among losses given as plain arrays
    the first is the main task's. In a step where no main task has a label in B no weight moves;
    that of a task without one in A stays too. A stopped task counts as absent. A user's constant
    c_k multiplies w_k, in H as well, but not the main losses in v. As c_k w_k is what counts, the
    constants of auxiliary tasks set where it starts and how fast it moves, and are undone in the
    long run; those of main tasks remain.

    A move takes ten forward and seven backward passes over half a batch: a step costs about 4.1
    times plain Keras (a LeNet with 2 and with 8 tasks), less with `update_every`.

    Args:
        learning_rate: Float > 0. Adam's, by which a weight moves at most, about.
        initial_weight: Float >= 0. Where the weights start.
        truncation: Integer >= 0. Products with H; 0 looks one step ahead.
        rate: Optional float > 0. The number alpha; by default the learning rate of the model's
            optimizer. Above 2 / (largest eigenvalue of H) the series diverges, as would SGD.
        update_every: Integer >= 1. Steps from one move of the weights to the next.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks,)`, mean losses, unscaled.
    Output shape: `()`, the total.

    Raises:
        TypeError: If a number is none, or not an integer where it must be.
        ValueError: If one is out of its range, or (in `compile`) if there is no auxiliary task,
            or no other.

    Example:

    >>> weighting = keras_mtl.weighting.AuxiLearn()
    >>> weighting.compute_weights([4.0, 1.0, 1.0])
    [1.0, 1.0, 1.0]
    >>> weighting.update_from_hypergradient([0.5, -2.0, 0.3], active=[1.0, 1.0, 1.0])
    >>> weighting.compute_weights([4.0, 1.0, 1.0])
    [1.0, 1.001, 0.999]

    Reference:
        Navon, Achituve, Maron, Chechik, Fetaya 2021, Auxiliary learning by implicit
        differentiation, https://arxiv.org/abs/2007.02693; the linear combination, with the series
        as in the authors' code, https://github.com/AvivNavon/AuxiLearn, from which the truncation,
        alpha, the starting weight and the learning rate are taken.
        Differs from the paper: B is half of the batch, not of a set that is held out of training;
        several main tasks count by the sum of their losses. The code moves the weights every 30
        or 50 steps, by SGD with momentum, weight decay and clipped gradients, leaves the factor
        alpha out (for Adam it makes no difference), and for NYUv2 learns the main task's weight
        as well.
    """

    hypergradient = "implicit"
    needs_auxiliary_tasks = True

    def __init__(
        self,
        learning_rate: float = 1e-3,
        initial_weight: float = 1.0,
        truncation: int = 3,
        rate: float | None = None,
        update_every: int = 1,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.learning_rate = checks.positive_number("learning_rate", learning_rate)
        self.initial_weight = checks.finite_number("initial_weight", initial_weight, minimum=0)
        self.truncation = checks.nonnegative_integer("truncation", truncation)
        self.rate = None if rate is None else checks.positive_number("rate", rate)
        self.update_every = checks.positive_integer("update_every", update_every)
        self.hypergradient_options = {"truncation": self.truncation, "rate": self.rate}

    def bind(self, roles: Sequence[TaskRole]) -> Self:
        """Tells the method its tasks, some of which must be auxiliary and some not."""
        if len({role.auxiliary for role in roles}) < 2:
            every = "auxiliary" if roles[0].auxiliary else "main tasks"
            raise ValueError(
                "`loss_weighting` AuxiLearn weights auxiliary tasks for the sake of main ones, but "
                f"{[role.name for role in roles]} are all {every}. Mark those that only help, and "
                "no others, with `Task(auxiliary=True)`."
            )
        return super().bind(roles)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        # With entries for the main tasks too, which nobody reads.
        initializer = keras.initializers.Constant(self.initial_weight)
        self.auxiliary_weights = self.add_task_variable("auxiliary_weights", initializer)
        self._adam = TaskAdam(self, "adam", self.learning_rate, epsilon=EPSILON)
        if self.update_every > 1:
            self.num_steps = self.add_weight(
                shape=(),
                initializer="zeros",
                trainable=False,
                name="num_steps",
                aggregation="only_first_replica",
            )

    def call(self, task_losses: Any, active: Any) -> Any:
        weights = ops.where(self._auxiliary() > 0, self.auxiliary_weights, 1.0)
        return ops.sum(active * weights * task_losses)

    def _auxiliary(self) -> Any:
        if self.roles is None:
            flags = [0.0] + [1.0] * (self.num_tasks - 1)
        else:
            flags = [float(role.auxiliary) for role in self.roles]
        return ops.convert_to_tensor(flags, dtype="float32")

    def hypergradient_due(self) -> Any:
        """Whether this is the last of every `update_every` steps."""
        return None if self.update_every == 1 else self.num_steps >= self.update_every - 1

    def update_state(self, task_losses: Any, active: Any) -> None:
        if self.update_every > 1:
            counted = self.num_steps + ops.max(ops.convert_to_tensor(active, dtype="float32"))
            self.num_steps.assign(ops.mod(counted, float(self.update_every)))

    def update_from_hypergradient(self, gradient: Any, active: Any) -> None:
        gradient, active = (ops.convert_to_tensor(x, dtype="float32") for x in (gradient, active))
        self._adam.apply(self.auxiliary_weights, gradient, active * self._auxiliary())
        self.auxiliary_weights.assign(ops.maximum(self.auxiliary_weights, 0.0))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "learning_rate": self.learning_rate,
            "initial_weight": self.initial_weight,
            "truncation": self.truncation,
            "rate": self.rate,
            "update_every": self.update_every,
        }
