"""A smooth maximum of the losses."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Self

import keras
from keras import ops

from keras_mtl.core import checks, task_values
from keras_mtl.core.roles import TaskRole
from keras_mtl.core.shares import ABSENT
from keras_mtl.weighting.base import LossWeighting

MIN_LOSS = 1e-8


@keras.saving.register_keras_serializable(package="keras_mtl")
class SmoothTchebycheff(LossWeighting):
    """Descends a smooth maximum of the losses.

    With preferences p and the ideal losses z, the total is mu log sum_i exp(p_i (L_i - z_i) / mu)
    over the m active tasks. It lies above the largest p_i (L_i - z_i) by at most mu log m, and
    w_i = p_i softmax(p (L - z) / mu)_i, so without preferences the weights sum to 1. As mu tends
    to 0 the worst task has all the weight; as mu grows they tend to 1 / m. A user's constants
    `loss_weights` multiply the weights after the softmax: a preference that is to decide which
    task is the worst belongs into `preferences`.

    Losses in different units need `nadir`, which puts L_i / nadir_i in the place of L_i, or
    `log`, which puts log(L_i + 1e-8) there. Then w_i L_i, or w_i (L_i + 1e-8), stands for the
    share of task i (with both and mu = 1 the total is log sum_i L_i / nadir_i, whose weights keep
    their ratios). The authors' multi-task experiments are
    `SmoothTchebycheff(log=True, nadir=True, warmup_epochs=4)`.

    Args:
        mu: Float in [1e-30, 1e30], in the units of what is compared. How smooth the maximum is.
        preferences: Optional dict from task name to float >= 0 (or a list, in the order of the
            tasks). A task without one has 1; in the paper they sum to 1.
        ideal: Optional dict from task name to float (or a list), in units of the losses: the
            best loss a task can reach. By default 0; not together with `log` or `nadir`.
        log: Boolean. Whether logarithms of the losses are compared.
        nadir: Boolean. Whether losses are compared in units of their means over one epoch, the
            one that follows the warm-up and still belongs to it. Means are at least 1e-8.
        warmup_epochs: Integer >= 0. A task's first epochs, in which all tasks count alike: the
            total is the mean of what is compared. Epochs without its labels do not count; tasks
            that are ready while others are not share their part as above.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks,)`, mean losses, unscaled; with `log` or `nadir` each >= 0.
    Output shape: `()`, the total.

    Raises:
        TypeError: If a number is none, or `preferences` or `ideal` neither a dict nor a list.
        ValueError: If a number is out of its range, a name is of no task, or `ideal` stands
            beside `log` or `nadir`, or with these a loss is negative.

    Example:

    >>> keras_mtl.weighting.SmoothTchebycheff()([0.0, 0.0])
    0.69315
    >>> keras_mtl.weighting.SmoothTchebycheff(mu=0.5).compute_weights([1.0, 2.0])
    [0.1192, 0.8808]
    >>> weighting = keras_mtl.weighting.SmoothTchebycheff(mu=0.5, nadir=True)
    >>> weighting.update_state([2.0, 8.0], active=[1.0, 1.0])
    >>> weighting.on_epoch_begin()
    >>> weighting.compute_weights([1.0, 4.0])  # both have halved
    [0.25, 0.0625]

    Reference:
        X. Lin, X. Zhang, Yang, F. Liu, Wang, Q. Zhang 2024, Smooth Tchebycheff scalarization for
        multi-objective optimization, https://arxiv.org/abs/2402.19078; `log`, `nadir` and the
        warm-up as in the authors' code, https://github.com/Xi-L/STCH, as is the default of mu.
        Differs from them: preferences need not sum to 1; the code's totals are m times larger,
        in the warm-up too, and its logarithms add 1e-20.
    """

    def __init__(
        self,
        mu: float = 1.0,
        preferences: Mapping[str, float] | Sequence[float] | None = None,
        ideal: Mapping[str, float] | Sequence[float] | None = None,
        log: bool = False,
        nadir: bool = False,
        warmup_epochs: int = 0,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        at_least_0 = functools.partial(checks.finite_number, minimum=0)
        self.mu = checks.finite_number("mu", mu, minimum=1e-30, maximum=1e30)
        self.preferences = task_values.checked("preferences", preferences, at_least_0)
        self.ideal = task_values.checked("ideal", ideal, checks.finite_number)
        checks.one_of("log", log, (False, True))
        checks.one_of("nadir", nadir, (False, True))
        self.log = log
        self.nadir = nadir
        self.warmup_epochs = checks.nonnegative_integer("warmup_epochs", warmup_epochs)
        self.takes_negative_losses = not (log or nadir)
        if ideal is not None and not self.takes_negative_losses:
            raise ValueError(
                "`ideal` is taken off plain losses, received it together with "
                f"log={log}, nadir={nadir}. Leave it out, or these."
            )
        # The epoch that measures the nadir comes after the others.
        self._epochs_to_wait = warmup_epochs + int(nadir)

    def bind(self, roles: Sequence[TaskRole]) -> Self:
        """Tells the method its tasks; names that are none of them are errors."""
        super().bind(roles)
        self._by_task("preferences", 1.0)
        self._by_task("ideal", 0.0)
        return self

    def _by_task(self, argument: str, default: float) -> Any:
        values = getattr(self, argument)
        numbers = task_values.in_order(
            argument, values, self.num_tasks, self.roles, default=default
        )
        return ops.convert_to_tensor(numbers, dtype="float32")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        if self._epochs_to_wait > 0:
            self.loss_sum = self.add_task_variable("loss_sum")
            self.num_steps = self.add_task_variable("num_steps")
            self.num_epochs = self.add_task_variable("num_epochs")
        if self.nadir:
            self.nadir_losses = self.add_task_variable("nadir_losses", "ones")

    def call(self, task_losses: Any, active: Any) -> Any:
        compared = self._by_task("preferences", 1.0) * self._compared(task_losses)
        ready = active * self._ready()
        maximum = ops.sum(ready) * self._smooth_maximum(compared, ready)
        waiting = ops.sum((active - ready) * compared)
        return (maximum + waiting) / ops.maximum(ops.sum(active), 1.0)

    def _compared(self, task_losses: Any) -> Any:
        if self.takes_negative_losses:
            return task_losses - self._by_task("ideal", 0.0)
        nadir = self.nadir_losses if self.nadir else 1.0
        return ops.log((task_losses + MIN_LOSS) / nadir) if self.log else task_losses / nadir

    def _ready(self) -> Any:
        if self._epochs_to_wait == 0:
            return 1.0
        return ops.cast(self.num_epochs >= self._epochs_to_wait, "float32")

    def _smooth_maximum(self, values: Any, ready: Any) -> Any:
        # mu log sum_i exp(x_i / mu), with the largest x taken out: no exponent is above 0.
        largest = ops.stop_gradient(ops.max(ops.where(ready > 0, values, ABSENT)))
        exponents = ops.where(ready > 0, (values - largest) / self.mu, ABSENT)
        total = ops.sum(ops.exp(exponents))
        return largest + self.mu * ops.log(ops.where(total > 0, total, 1.0))

    def update_state(self, task_losses: Any, active: Any) -> None:
        task_losses, active = self._standardize(task_losses, active)
        if self._epochs_to_wait > 0:
            self.loss_sum.assign_add(ops.where(active > 0, task_losses, 0.0))
            self.num_steps.assign_add(active)

    def on_epoch_begin(self) -> None:
        if not self.built or self._epochs_to_wait == 0:
            return
        seen = self.num_steps > 0
        if self.nadir:
            measured = ops.logical_and(seen, self.num_epochs == self.warmup_epochs)
            mean = ops.maximum(self.loss_sum / ops.maximum(self.num_steps, 1.0), MIN_LOSS)
            self.nadir_losses.assign(ops.where(measured, mean, self.nadir_losses))
        self.num_epochs.assign_add(ops.cast(seen, "float32"))
        self.loss_sum.assign(ops.zeros_like(self.loss_sum))
        self.num_steps.assign(ops.zeros_like(self.num_steps))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "mu": self.mu,
            "preferences": self.preferences,
            "ideal": self.ideal,
            "log": self.log,
            "nadir": self.nadir,
            "warmup_epochs": self.warmup_epochs,
        }
