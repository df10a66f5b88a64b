"""The training step: losses, weights, gradients, update, logs, in that order."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_mtl.core import early_reads, replicas, update
from keras_mtl.core.conflicts import ConflictWatch
from keras_mtl.core.derivatives import value_and_gradient
from keras_mtl.core.kept import DETACHED, FROZEN, Kept, floats
from keras_mtl.core.labels import Elements
from keras_mtl.core.logbook import LogBook
from keras_mtl.core.losses import LossSum
from keras_mtl.core.measured import Measured, batch_size, by_rows, extra_terms, measure
from keras_mtl.core.nonfinite import Guard, guard_for
from keras_mtl.core.partition import Partition
from keras_mtl.core.pass_for import pass_for
from keras_mtl.core.plan import BatchReader, TaskPlan
from keras_mtl.core.side_effects import SideEffects
from keras_mtl.core.terms import Half, Terms


class Step:
    """Trains and evaluates a model on one batch; pure graph code, no state of its own.

    Args:
        model: The functional model.
        plans: Dict from task name to `TaskPlan`, tasks with a loss in order.
        state: `TrainingState` with the constants, the loss weighting and the balancing.
        logbook: `LogBook`.
        partition: `Partition` of the model.
        on_nonfinite: `None`, `"raise"` or `"skip"`.
    """

    def __init__(
        self,
        model: Any,
        plans: Mapping[str, TaskPlan],
        state: Any,
        logbook: LogBook,
        partition: Partition,
        on_nonfinite: str | None,
    ) -> None:
        self.model = model
        self.state = state
        self.logbook = logbook
        self.partition = partition
        self._plans = dict(plans)
        self._on_nonfinite = on_nonfinite
        self._reader = BatchReader(plans, [tensor.name for tensor in model.inputs])
        self.model_variables = list(model.trainable_variables)
        self.variables = self.model_variables + list(self.weighting.trainable_variables)
        self.watch: ConflictWatch | None = None
        self.let_heads_train_alone(False)
        moved = [*self.model_variables, *floats(model.non_trainable_variables)]
        self._kept = Kept(partition, moved, self.weighting)
        self.effects = SideEffects(model)
        self.before_step: Callable[[Any], None] | None = None

    def let_heads_train_alone(self, detachable: bool) -> None:
        """Sets whether tasks may be detached: a dearer backward pass where nothing balances."""
        self.detachable = detachable
        self._ready_pass()

    def watch_with(self, watch: ConflictWatch) -> None:
        """Sets what observes the task gradients."""
        self.watch = watch
        self._ready_pass()

    def _ready_pass(self) -> None:
        self._pass = pass_for(
            self.state.gradient_balancing,
            self.partition,
            self.model,
            self.model_variables,
            detachable=self.detachable,
            persistent=self.watch is not None,
            compiled=bool(self.model.jit_compile),
        )

    @property
    def weighting(self) -> Any:
        """The loss weighting."""
        return self.state.loss_weighting

    def train(self, data: Any) -> dict[str, Any]:
        """Takes one training step on this replica's part of a batch; returns the logs."""
        # Counters and random states wait for the batch: it may be refused by its checks.
        flat = tf.nest.flatten(data, expand_composites=True)
        with tf.control_dependencies([tf.group(*[part for part in flat if part is not None])]):
            return self._train(data)

    def _train(self, data: Any) -> dict[str, Any]:
        batch = keras.utils.unpack_x_y_sample_weight(data)
        if self.before_step is not None:
            self.before_step(batch)
        earlier = self._before_fresh_losses()
        guard = self._guard()
        guard.before()
        before = self._kept.before()
        with self._pass() as recording:
            elements, sums, extra = self.forward(*batch, training=True)
            halves = self._sums_of_halves(elements)
        measured = measure(sums, extra, batch[0], refuses_negative=self.refuses_negative)
        active = self.active(measured)
        total, weights, own_gradients = value_and_gradient(
            lambda losses: self.weighting(losses, active),
            measured.losses,
            self.weighting.trainable_variables,
        )
        effective = self.state.constants.value * weights
        scale = update.loss_scale(self.model.optimizer)
        applied = self._applied(effective)
        terms = Terms(
            [part.total for part in sums],
            tf.math.divide_no_nan(applied, measured.denominators),
            by_rows(extra, measured.share, recording.tape),
            active,
            scale,
            measured.losses,
            tuple(self._half(half, applied) for half in halves),
        )
        gradients = recording.gradients(terms)
        if self.watch is not None:
            self.watch.observe(recording, terms, gradients)
        counted = guard.inspect(measured.losses, measured.present, gradients)
        own = self._own_parts(own_gradients, scale)
        taken = self._update([*gradients, *own], scale, guard, counted)
        self._move_weighting(batch, measured, active * taken, earlier)
        finite = tf.math.is_finite(measured.losses)
        idle = tf.logical_not(tf.logical_and(active * taken > 0, finite))
        self._kept.put_back(before, tf.equal(self.state.stopped.value, FROZEN), idle)
        guard.after(counted)
        loss = self._training_loss(total, weights, active, measured)
        self._log(loss, batch[0], elements, sums, effective, active, counted)
        return self.logbook.logs(self.model._loss_tracker.result(), training=True)

    def active(self, measured: Measured) -> Any:
        """Returns 1.0 for the tasks that take part, those present and not stopped."""
        return tf.where(self.state.stopped.value > 0, 0.0, measured.present)

    def _applied(self, effective: Any) -> Any:
        """Returns the weights that the gradients take: a detached head trains with its constant."""
        if not self.detachable:
            return effective
        detached = tf.equal(self.state.stopped.value, DETACHED)
        return tf.where(detached, self.state.constants.value, effective)

    def effective_weights(self, measured: Measured) -> Any:
        """Returns the weights with which the measured losses are differentiated."""
        weights = self.weighting.compute_weights(measured.losses, self.active(measured))
        return self.state.constants.value * weights

    def tell_hypergradient(self, gradient: Any, active: Any) -> None:
        """Hands a hypergradient to the loss weighting; for tasks that are not active nothing moves.

        Args:
            gradient: Tensor `(num_tasks,)`.
            active: Float tensor `(num_tasks,)`.
        """
        finite = tf.reduce_all(tf.math.is_finite(gradient))
        active = tf.where(finite, active, 0.0)
        variables = [v for v in self.weighting.task_variables if not v.trainable]
        before = [tf.identity(variable.value) for variable in variables]
        gradient = tf.where(active > 0, gradient, 0.0)
        self.weighting.update_from_hypergradient(gradient, active)
        update.put_back(variables, before, [active <= 0] * len(variables))

    def _before_fresh_losses(self) -> tuple[list[Any], Any] | None:
        """Returns what the second forward pass needs to know of the time before the update."""
        if not self.weighting.needs_fresh_losses:
            return None
        return self.effects.read(), update.count_of_accumulated(self.model.optimizer)

    def _move_weighting(
        self,
        batch: Any,
        measured: Measured,
        active: Any,
        earlier: tuple[list[Any], Any] | None,
    ) -> None:
        self.weighting.update_state(measured.losses, active)
        if earlier is None:
            return
        effects, accumulated = earlier
        if accumulated is not None:
            moved = update.count_of_accumulated(self.model.optimizer) > accumulated
            active *= tf.cast(moved, active.dtype)
        now = self.effects.read()
        self.effects.rewind_random_states(effects)
        _, sums, extra = self.forward(*batch, training=True)
        fresh = measure(sums, extra, refuses_negative=self.refuses_negative).losses
        self.effects.restore(now)
        self.weighting.update_from_fresh_losses(measured.losses, fresh, active)

    def evaluate(self, data: Any) -> dict[str, Any]:
        """Measures this replica's part of a batch; returns the logs."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        elements, sums, extra = self.forward(x, y, sample_weight, training=False)
        self.logbook.update_losses(sums)
        self.logbook.update_metrics(elements)
        if extra is not None:
            self.logbook.update_extra(extra * replicas.count(), batch_size(x))
        return self.logbook.logs(self.evaluation_loss(), training=False)

    def evaluation_loss(self) -> Any:
        """Returns the `loss` of `evaluate`: weighting plays no part in it."""
        return self.logbook.evaluation_loss(self.state.constants.value)

    def forward(
        self, x: Any, y: Any, sample_weight: Any, *, training: bool
    ) -> tuple[dict[str, Elements], list[LossSum], Any]:
        """Returns each task's elements and local sums, and the extra terms of this replica."""
        with early_reads.forward_pass(self.model):
            predictions = self.model(x, training=training)
        elements = self._reader.read(x, y, predictions, sample_weight, training=training)
        sums = [plan.loss.sums(elements[name]) for name, plan in self._plans.items()]
        return elements, sums, extra_terms(self.model, x)

    def _sums_of_halves(self, elements: Mapping[str, Elements]) -> list[list[LossSum]]:
        """Returns the local sums over half of the rows, where the balancing compares halves."""
        balancing = self.state.gradient_balancing
        if balancing is None or not balancing.compares_halves:
            return []
        return [
            [plan.loss.sums(elements[name].half(second)) for name, plan in self._plans.items()]
            for second in (False, True)
        ]

    def _half(self, sums: Sequence[LossSum], applied: Any) -> Half:
        denominators = measure(sums).denominators
        factors = tf.math.divide_no_nan(applied, denominators)
        return Half([part.total for part in sums], factors)

    def _own_parts(self, gradients: Sequence[Any], scale: Any) -> list[Any]:
        # Every replica has the whole gradient of the total; the optimizer adds them up.
        return [gradient * (scale / replicas.count()) for gradient in gradients]

    def _update(self, gradients: list[Any], scale: Any, guard: Guard, counted: Any) -> Any:
        """Applies the gradients; returns 1.0 if the optimizer has taken them."""
        optimizer = self.model.optimizer
        count = update.count_of_updates(optimizer)
        if update.needs_sum(optimizer):
            gradients = update.clip_over_replicas(optimizer, gradients, scale)
        with early_reads.updates(optimizer):
            guard.apply(counted, lambda parts: optimizer.apply(parts, self.variables), gradients)
        applied = update.was_applied(optimizer, count)
        return applied if counted is None else applied * tf.cast(counted, tf.float32)

    def _training_loss(self, total: Any, weights: Any, active: Any, batch: Measured) -> Any:
        # The user's constants stand outside the method: a weighted sum under constant weights.
        total = tf.where(tf.reduce_any(active > 0), total, 0.0)
        constants = self.state.constants.value
        return total + tf.reduce_sum((constants - 1.0) * weights * batch.losses) + batch.extra

    @property
    def refuses_negative(self) -> bool:
        """Whether a negative loss must be watched for: some cannot be negative."""
        known = all(role.nonnegative for role in self.weighting.roles)
        return not (self.weighting.takes_negative_losses or known)

    def _guard(self) -> Guard:
        return guard_for(
            self.model,
            self.model_variables,
            self.state,
            self.partition,
            policy=self._on_nonfinite,
            refuses_negative=self.refuses_negative,
        )

    def _log(
        self,
        loss: Any,
        x: Any,
        elements: Mapping[str, Elements],
        sums: Sequence[LossSum],
        effective: Any,
        active: Any,
        counted: Any,
    ) -> None:
        size = tf.cast(batch_size(x), tf.float32)
        if counted is not None:
            loss, size = tf.where(counted, loss, 0.0), tf.where(counted, size, 0.0)
            self.logbook.update_skipped(counted)
        self.model._loss_tracker.update_state(loss, sample_weight=size)
        self.state.effective.assign(effective)
        self.logbook.update_losses(sums, counted)
        self.logbook.update_weights(effective, active, counted)
        self.logbook.update_metrics(elements, counted)
