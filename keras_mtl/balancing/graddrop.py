"""Elements of gradients kept by sign, at random, where tasks disagree."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_mtl.balancing.base import GradientBalancing
from keras_mtl.core import checks, draws, replicas, task_values
from keras_mtl.core.in_turn import after, in_turn, sum_in_turn
from keras_mtl.core.roles import TaskRole


@keras.saving.register_keras_serializable(package="keras_mtl")
class GradDrop(GradientBalancing):
    """Sums elements of one sign only, which chance picks by how much speaks for it.

    In each element, the positive sign is picked with probability
    P = (1 + sum_i g_i / sum_i |g_i|) / 2, else the negative one; elements g_i of the other sign
    are dropped. Where all tasks agree nothing is dropped: there the direction is the sum of the
    gradients, as in plain training. On average it is the sum too.

    In scope `"features"` a feature stands for an element: it has one draw for the whole batch, and
    in P and in the choice of tasks stands G_i for g_i, the sum over the batch of g_i times the
    sign of the feature. A task is kept or dropped with all its examples.

    Of task i, the share `leak` of a dropped element passes all the same: with 1 for a task, its
    gradient is never touched. A loss weighting set before it acts as in a plain sum, and on P.

    Args:
        leak: Float from 0 to 1 for all tasks, a sequence with one a task, or a dict from task
            name to one (0 for tasks left out).
        seed: Optional integer. Starts the sequence of draws; by default it differs each time.
        scope: `"parameters"` or `"features"`, as in `GradientBalancing`. The paper's is the latter.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks, num_params)`, one gradient a row.
    Output shape: `(num_params,)`, the direction to descend.

    Raises:
        TypeError: If `leak` is none of these, or `seed` no integer.
        ValueError: If a leak is not from 0 to 1, `scope` is neither of the two, or `seed` has
            more than 64 bits.

    Example:

    >>> from keras_mtl.balancing.graddrop import GradDrop
    >>> GradDrop()([[2.0, -1.0, 3.0], [1.0, -2.0, 0.0]])
    [3.0, -3.0, 3.0]
    >>> GradDrop(leak=1.0)([[2.0, -1.0], [-1.0, 3.0]])
    [1.0, 2.0]

    Two examples of one feature: the first task has 2 * 1 + 1 * -1 = 1 against -3 of the second.

    >>> GradDrop(seed=1)([[2.0, 1.0], [-2.0, 1.0]], features=[[0.7], [-0.2]])
    [-2.0, 1.0]

    Reference:
        Z. Chen, Ngiam, Huang, Luong, Kretzschmar, Chai, Anguelov 2020, Just pick a sign:
        optimizing deep multitask models with gradient sign dropout, equations 1 and 2 and
        algorithm 1, https://arxiv.org/abs/2010.06808.
        Differs from the paper: scope `"parameters"` does the same to the gradients of the shared
        variables, which have neither examples nor signs of their own.
    """

    needs_gramian = False
    needs_features = True
    random = (
        "The sign that each element keeps is drawn at random; with the same draws, a permutation "
        "of the tasks leaves the direction."
    )

    def __init__(
        self,
        leak: float | Sequence[float] | Mapping[str, float] = 0.0,
        seed: int | None = None,
        scope: str = "parameters",
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(scope=scope, name=name, **kwargs)
        self.leak = _checked(leak)
        self.seed = checks.seed("seed", seed)

    def bind(self, roles: Sequence[TaskRole]) -> Any:
        """Tells the method its tasks, which `leak` must name."""
        self._leaks(len(roles), roles)
        return super().bind(roles)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        # Not before: under a strategy each replica needs its own copy, to draw the same numbers.
        self.seed_generator = keras.random.SeedGenerator(self.seed)

    def combine(
        self,
        gradients: Sequence[Any],
        gramian: Any,
        active: Any,
        *,
        features: Sequence[Any] | None = None,
    ) -> list[Any]:
        # Element by element: the parts need not be joined.
        whole = super().combine
        features = [None] * len(gradients) if features is None else features
        return in_turn(
            lambda part, values: whole([part], gramian, active, features=values)[0],
            gradients,
            features,
        )

    def call(self, gradients: Any, gramian: Any, active: Any, features: Any = None) -> Any:
        num_tasks = active.shape[0]
        leaks = self._leaks(num_tasks, self.roles)
        if features is None:
            return self._picked(ops.unstack(gradients, num_tasks), leaks)
        signs = ops.cast(ops.sign(features), gradients.dtype)
        examples = ops.reshape(signs, (ops.shape(signs)[0], -1))
        by_example = ops.reshape(gradients, (-1, *ops.shape(examples)))
        votes = replicas.total([ops.sum(by_example * examples, axis=1)])[0]
        positive, _, _ = self._picked_signs(ops.unstack(votes, num_tasks))
        kept = ops.cast(ops.where(positive, votes > 0, votes < 0), votes.dtype)
        leaks = ops.convert_to_tensor(leaks, votes.dtype)[:, None]
        passed = leaks + (1 - leaks) * kept
        return ops.reshape(ops.sum(passed[:, None] * by_example, axis=0), (-1,))

    def _picked(self, rows: Sequence[Any], leaks: Sequence[float]) -> Any:
        """Returns the sum of the elements with the sign that is drawn, and of what leaks."""
        positive, above, below = self._picked_signs(rows)
        if not any(leaks):
            return ops.where(positive, above, below)
        with after(positive):
            kept = ops.where(positive, *_sides(rows, [1.0 - leak for leak in leaks]))
        with after(kept):
            return kept + sum_in_turn(lambda row, leak: leak * row, rows, leaks)

    def _picked_signs(self, rows: Sequence[Any]) -> tuple[Any, Any, Any]:
        """Returns whether the positive sign is picked, and the sums of both sides."""
        size = ops.shape(rows[0])[0]
        drawn = ops.cast(draws.uniform(size, self.seed_generator), rows[0].dtype)
        with after(drawn):
            above, below = _sides(rows)
        # P = above / (above - below); P = 1 is above every draw and P = 0 above none: an agreed
        # sign is always kept.
        return drawn * (above - below) < above, above, below

    def _leaks(self, num_tasks: int, roles: Sequence[TaskRole] | None) -> list[float]:
        if isinstance(self.leak, float):
            return [self.leak] * num_tasks
        return task_values.in_order("leak", self.leak, num_tasks, roles, default=0.0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "leak": self.leak, "seed": self.seed}


def _sides(rows: Sequence[Any], factors: Sequence[float] | None = None) -> tuple[Any, Any]:
    """Returns the sums of what is above 0 and of what is below, times a factor a row."""
    above = _side(ops.maximum, rows, factors)
    with after(above):
        return above, _side(ops.minimum, rows, factors)


def _side(side: Any, rows: Sequence[Any], factors: Sequence[float] | None) -> Any:
    if factors is None:
        return sum_in_turn(lambda row: side(row, 0), rows)
    return sum_in_turn(lambda row, factor: factor * side(row, 0), rows, factors)


def _checked(leak: Any) -> Any:
    if isinstance(leak, int | float):
        return _share("leak", leak)
    if leak is None or isinstance(leak, str) or not hasattr(leak, "__iter__"):
        raise TypeError(
            "`leak` must be a number from 0 to 1, a list with one number a task or a dict from "
            f"task name to one, received {checks.describe(leak)}."
        )
    return task_values.checked("leak", leak, _share)


def _share(argument: str, value: Any) -> float:
    return checks.finite_number(argument, value, minimum=0.0, maximum=1.0)
