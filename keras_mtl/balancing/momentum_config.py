"""ConFIG on moving averages of the task gradients, one of which is taken in each step."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_mtl.balancing.tracking import TrackingBalancing
from keras_mtl.core import checks, spectral
from keras_mtl.core.in_turn import in_turn


@keras.saving.register_keras_serializable(package="keras_mtl")
class MomentumConFIG(TrackingBalancing):
    """Descends at one angle to average task gradients, one renewed a step.

    The tasks take turns, so a step has one backward pass. In its turn a task's average m becomes
    beta_1 m + (1 - beta_1) g. The averages, corrected for their start at 0, are combined as by
    `config` into d, at equal angles to all of them. Then d is divided, element by element, by
    sqrt(v) + epsilon, where v is the average, with beta_2, of the squares of the gradients that
    would have made d the average: (a' - beta_1 a) / (1 - beta_1) for a = (1 - beta_1^t) d, now
    a' and in the step before a.

    This is made for plain SGD: elements of the direction are about as large as in Adam, so take
    its learning rates, and no momentum or second moment on top. Heads get the plain gradient of
    their task in its turns only. Shared variables rest until every task has had a turn; a task
    that is absent takes no part, and one that is new has the next turn.

    Neither the lengths of the gradients nor their common scale count: little is left of a loss
    weighting set before it.

    Args:
        beta_1: Float from 0, below 1. How slowly the averages of the gradients move.
        beta_2: Float from 0, below 1. How slowly the average of squares moves.
        epsilon: Float > 0. Keeps the divisor from 0, in units of the gradients.
        scope: `"parameters"` only.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks, num_params)`, one gradient a row.
    Output shape: `(num_params,)`, the direction to descend.

    Raises:
        TypeError: If an option is no number.
        ValueError: If an option is out of its range, or `scope` is not `"parameters"`.

    Example:

    >>> from keras_mtl.balancing.momentum_config import MomentumConFIG
    >>> balancing = MomentumConFIG()
    >>> balancing([[3.0, 0.0], [0.0, 1.0]])  # the first task's turn; the second has had none
    [0.0, 0.0]
    >>> balancing([[3.0, 0.0], [0.0, 1.0]])
    [1.0, 1.0]

    Reference:
        Q. Liu, Chu, Thuerey 2025, ConFIG: towards conflict-free training of physics informed
        neural networks, algorithm 1, M-ConFIG, https://arxiv.org/abs/2408.11104.
        Differs from the paper: the task whose turn was longest ago is next, which is the same
        where no task is ever absent.
    """

    needs_one_task = True
    weights_remark = (
        "its direction is the same for task gradients of any lengths, and is divided by its own "
        "running size, so little is left of the weights."
    )

    def __init__(
        self,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        scope: str = "parameters",
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(scope=scope, name=name, **kwargs)
        self.beta_1 = _decay("beta_1", beta_1)
        self.beta_2 = _decay("beta_2", beta_2)
        self.epsilon = checks.positive_number("epsilon", epsilon)
        # Past the tracking of Keras, as the list of the base class.
        object.__setattr__(self, "sizes_of_direction", [])

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        self.turns = self.add_task_variable("turns")
        self.waited = self.add_task_variable("waited")
        self.steps = self._number("steps", ())

    def build_for_parts(self, sizes: Sequence[int]) -> None:
        """Makes the variables, once, for gradients in parts of these sizes."""
        super().build_for_parts(sizes)
        if not self.sizes_of_direction:
            with self.added_late():
                self.sizes_of_direction.extend(
                    (
                        self._number(f"average_{part}", (size,)),
                        self._number(f"squares_{part}", (size,)),
                    )
                    for part, size in enumerate(sizes)
                )

    def _number(self, name: str, shape: tuple[int, ...]) -> Any:
        return self.add_weight(
            shape=shape,
            initializer="zeros",
            trainable=False,
            name=name,
            aggregation="only_first_replica",
        )

    def choose(self, active: Any) -> Any:
        """Returns 1.0 for the active task that has waited longest, one without any turn first."""
        new = ops.cast(ops.equal(self.turns, 0), "float32")
        # None waits longer than there are tasks.
        waited = self.waited + new * 2 * self.num_tasks
        longest = ops.argmax(ops.where(active > 0, waited, -1.0))
        return active * ops.one_hot(longest, self.num_tasks, dtype=active.dtype)

    def combine(
        self, gradients: Sequence[Any], gramian: Any, active: Any, **more: Any
    ) -> list[Any]:
        present = ops.cast(active, "float32")
        chosen = present * ops.cast(more["chosen"], "float32")
        self.turns.assign_add(chosen)
        self.waited.assign(ops.where(chosen > 0, 0.0, self.waited + present))
        idle = ops.logical_and(present > 0, ops.equal(self.turns, 0))
        ready = ops.logical_and(ops.any(present > 0), ops.logical_not(ops.any(idle)))
        self.steps.assign_add(ops.cast(ready, "float32"))
        parts = super().combine(gradients, gramian, active, **more)
        done = in_turn(
            lambda part, variables: self._resized(part, ready, *variables),
            parts,
            self.sizes_of_direction,
        )
        return [direction for direction, *_ in done]

    def track(
        self, gradients: Any, tracked: Sequence[Any], active: Any, *, chosen: Any
    ) -> tuple[Any, Sequence[Any]]:
        del active, chosen
        moved = _moved(self.beta_1, tracked[0], gradients)
        return moved, [moved]

    def row_factors(self) -> Any:
        """Returns 1 / (1 - beta_1^t); rows are 0 where there was no turn yet."""
        return 1.0 / _started(self.beta_1, self.turns)

    def solve(self, gramian: Any, active: Any, *, chosen: Any) -> Any:
        del chosen
        return spectral.conflict_free_weights(gramian, active, active)

    def _resized(
        self, direction: Any, ready: Any, average: Any, squares: Any
    ) -> tuple[Any, Any, Any]:
        """Returns d / (sqrt(v) + epsilon), 0 unless `ready`, and what v comes from, moved."""
        dtype = direction.dtype
        now = direction * ops.cast(_started(self.beta_1, self.steps), dtype)
        before = ops.cast(average.value, dtype)
        # (a' - beta a) / (1 - beta), with 1 - beta alone, as in `_moved`.
        pseudo = before + (now - before) / (1 - self.beta_1)
        old = ops.cast(squares.value, dtype)
        new = _moved(self.beta_2, old, pseudo**2)
        average.assign(ops.cast(ops.where(ready, now, before), "float32"))
        squares.assign(ops.cast(ops.where(ready, new, old), "float32"))
        size = ops.sqrt(new / ops.cast(_started(self.beta_2, self.steps), dtype))
        return ops.where(ready, direction / (size + self.epsilon), 0), average.value, squares.value

    def get_config(self) -> dict[str, Any]:
        options = {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}
        return {**super().get_config(), **options}


def _moved(beta: float, average: Any, value: Any) -> Any:
    """Returns beta a + (1 - beta) x, with 1 - beta alone: in float32 a beta near 1 is another."""
    return average + (1 - beta) * (value - average)


def _started(beta: float, count: Any) -> Any:
    """Returns 1 - beta^count, what an average that started at 0 is short of; 1 for no count."""
    # In float64: in float32 nothing is left of it for a beta near 1.
    return ops.where(count > 0, 1 - ops.power(beta, ops.cast(count, "float64")), 1.0)


def _decay(argument: str, value: Any) -> float:
    number = checks.finite_number(argument, value, minimum=0.0)
    if number >= 1:
        raise ValueError(
            f"`{argument}` must be a number >= 0 and < 1, received {checks.describe(value)}. At 1 "
            "an average would never move."
        )
    return number
