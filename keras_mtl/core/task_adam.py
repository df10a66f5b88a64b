"""Adam on one value a task, for methods that learn outside the model's optimizer."""

from typing import Any

from keras import ops

# Far beyond what is learned here, it keeps the state of a huge gradient finite when squared.
MAX_GRADIENT = 1e15


class TaskAdam:
    """Adam (Kingma, Ba 2015, algorithm 1) whose slots are task variables of a method.

    Every task counts its own steps: for one that is absent nothing moves, and its bias correction
    is that of the steps in which it took part. An L2 penalty is added to the gradient.

    Args:
        method: The `Method` that keeps the slots; to be made in its `build`.
        name: String. Prefix of the slots' names.
        learning_rate: Float > 0.
        weight_decay: Float >= 0. Strength of the L2 penalty.
        beta_1: Float in [0, 1).
        beta_2: Float in [0, 1).
        epsilon: Float > 0.
    """

    def __init__(
        self,
        method: Any,
        name: str,
        learning_rate: float,
        *,
        weight_decay: float = 0.0,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
    ) -> None:
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.betas = (beta_1, beta_2)
        self.epsilon = epsilon
        self._momentum = method.add_task_variable(f"{name}_momentum")
        self._velocity = method.add_task_variable(f"{name}_velocity")
        self._num_steps = method.add_task_variable(f"{name}_num_steps")

    def apply(self, variable: Any, gradient: Any, active: Any) -> None:
        """Takes one step on `variable`, for the active tasks.

        Args:
            variable: A task variable.
            gradient: Tensor of shape `(num_tasks,)`.
            active: Float tensor of shape `(num_tasks,)`, 1.0 for tasks that take part.
        """
        moves = active > 0
        gradient = gradient + self.weight_decay * ops.convert_to_tensor(variable)
        gradient = ops.clip(ops.where(moves, gradient, 0.0), -MAX_GRADIENT, MAX_GRADIENT)
        first, second = self.betas
        steps = self._num_steps + ops.cast(moves, "float32")
        momentum = first * self._momentum + (1.0 - first) * gradient
        velocity = second * self._velocity + (1.0 - second) * ops.square(gradient)
        # At least one step: tasks that never took part would divide by 0.
        counted = ops.maximum(steps, 1.0)
        unbiased = momentum / (1.0 - ops.power(first, counted))
        length = ops.sqrt(velocity / (1.0 - ops.power(second, counted))) + self.epsilon
        change = self.learning_rate * unbiased / length
        variable.assign(ops.where(moves, variable - change, variable))
        self._momentum.assign(ops.where(moves, momentum, self._momentum))
        self._velocity.assign(ops.where(moves, velocity, self._velocity))
        self._num_steps.assign(steps)
