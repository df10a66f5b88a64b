"""Applies a step's gradients: clipping, what is put back, and what a bad batch may touch."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from keras_mtl.core import checks, replicas

POLICIES = (None, "raise", "skip")


def check_optimizer(optimizer: Any, strategy: Any) -> None:
    """Refuses what crashes in stock Keras under a strategy, before anything is built."""
    if strategy.num_replicas_in_sync == 1 and not replicas.several_workers(strategy):
        return
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    for argument in ("gradient_accumulation_steps", "ema_overwrite_frequency"):
        value = getattr(inner, argument, None)
        if value is not None:
            raise ValueError(
                f"`optimizer` has {argument}={value}, which Keras cannot run under "
                f"{type(strategy).__name__}. Set it to None: a larger batch or a lower learning "
                "rate stands in for accumulation; `use_ema=True` alone works."
            )


def check_steps_per_execution(steps: int, strategy: Any) -> None:
    """Refuses several steps an execution on several replicas, which stock Keras cannot run."""
    # Keras wraps each further step in a cond, where the replicas cannot meet to add up.
    if steps > 1 and strategy.num_replicas_in_sync > 1:
        raise ValueError(
            f"`steps_per_execution` must be 1 under {type(strategy).__name__} with "
            f"{strategy.num_replicas_in_sync} replicas, where Keras cannot run several steps in "
            f"one execution, received {steps}."
        )


def warn_if_nothing_shared(balancing: Any, partition: Any, variables: Sequence[Any]) -> None:
    """Warns where a balancing has nothing to work on and the gradients are summed instead."""
    what = None if balancing is None else _why_summed(balancing.scope, partition, variables)
    if what is not None:
        warnings.warn(
            f"`gradient_balancing` '{balancing.name}' has nothing to balance{what}. "
            "The gradients will be summed.",
            stacklevel=4,
        )


def _why_summed(scope: str, partition: Any, variables: Sequence[Any]) -> str | None:
    if not partition.shared(variables):
        return ": no trainable variable is shared by two tasks"
    if scope != "features":
        return None
    if not partition.cuts:
        return ": there is no tensor where the shared part ends; use scope='parameters'"
    below = partition.shared_below_cuts(variables)
    if not below:
        return None
    return (
        f" in {len(below)} of {len(partition.shared(variables))} shared variables, such as "
        f"'{below[0].path}': layers called once a task come after the tensors where the shared "
        "part ends; use scope='parameters'"
    )


def warn_of_undone_weights(weighting: Any, balancing: Any) -> None:
    """Warns where a balancing undoes what the loss weighting before it has chosen."""
    remark = None if balancing is None else balancing.weights_remark
    if remark is not None and weighting.chooses:
        warnings.warn(
            f"`gradient_balancing` '{balancing.name}' works on gradients that `loss_weighting` "
            f"'{weighting.name}' has scaled: {remark}",
            stacklevel=4,
        )


def check_knows(optimizer: Any, weighting: Any) -> None:
    """Refuses an optimizer that was built before the loss weighting's variables were there."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if inner is None or not inner.built:
        return
    keys = {inner._var_key(variable) for variable in weighting.trainable_variables}
    if not keys <= set(inner._trainable_variables_indices):
        cls = type(inner).__name__
        raise ValueError(
            f"`optimizer` was built without the variables of `loss_weighting` '{weighting.name}', "
            f"and a Keras optimizer takes no further ones. Make a new one: "
            f"`keras.optimizers.{cls}.from_config(optimizer.get_config())`."
        )


def keep_from_weight_decay(optimizer: Any, variables: Sequence[Any]) -> None:
    """Excludes learned task weights from weight decay, beside what the user excluded."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if inner.built or getattr(inner, "weight_decay", None) is None:
        return
    # `exclude_from_weight_decay` would replace what the user excluded before.
    before = getattr(inner, "_exclude_from_weight_decay", set())
    inner._exclude_from_weight_decay = before | {inner._var_key(v) for v in variables}


def keep_from_clipping(optimizer: Any, count: int) -> None:
    """Leaves the last `count` gradients, those of learned task weights, out of clipping.

    Clipping by global norm would else shrink the network's gradients for their sake.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    inner.__dict__.pop("_clip_gradients", None)
    if count:
        inner._clip_gradients = partial(_clip_all_but, inner, count)


def _clip_all_but(optimizer: Any, count: int, gradients: Sequence[Any]) -> list[Any]:
    clip = type(optimizer)._clip_gradients
    return [*clip(optimizer, list(gradients[:-count])), *gradients[-count:]]


def check_overrides(model: Any) -> None:
    """Refuses overrides of what the training step does not call."""
    for name in ("compute_loss", "compute_metrics"):
        if getattr(type(model), name) is not getattr(keras.Model, name):
            raise TypeError(
                f"{type(model).__name__} overrides `{name}`, which a MultiTaskModel does not call. "
                "Give losses and metrics to `compile`, or override `train_step` and `test_step`."
            )


def loss_scale(optimizer: Any) -> Any:
    """Returns the factor by which the optimizer wants the loss scaled; 1.0 for most."""
    return tf.cast(optimizer.scale_loss(tf.constant(1.0)), tf.float32)


def clip_over_replicas(optimizer: Any, gradients: Sequence[Any], scale: Any) -> list[Any]:
    """Sums the gradients over replicas and clips the sum, where there are several replicas.

    Keras clips each replica's part. The clipped sum is divided by the number of replicas, since
    the optimizer adds the parts up again; that leaves it nothing to clip.
    """
    count = replicas.count()
    if count == 1:
        return list(gradients)
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    given = replicas.total([gradient for gradient in gradients if gradient is not None])
    clipped = inner._clip_gradients([_times(gradient, 1.0 / scale) for gradient in given])
    parts = iter([_times(gradient, scale / count) for gradient in clipped])
    return [None if gradient is None else next(parts) for gradient in gradients]


def needs_sum(optimizer: Any) -> bool:
    """Whether the optimizer must see the sum over replicas before it applies anything."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    clips = any(
        getattr(inner, name, None) is not None
        for name in ("clipnorm", "global_clipnorm", "clipvalue")
    )
    return clips or scales_dynamically(optimizer)


def scales_dynamically(optimizer: Any) -> bool:
    """Whether the optimizer skips overflowing updates by itself."""
    return isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


def count_of_updates(optimizer: Any) -> Any:
    """Returns how many updates a scaling optimizer has taken, or `None` for others."""
    if not scales_dynamically(optimizer):
        return None
    return tf.identity(optimizer.inner_optimizer.iterations.value)


def was_applied(optimizer: Any, count: Any) -> Any:
    """Returns 1.0 if the optimizer has taken an update since `count_of_updates`, else 0.0."""
    if count is None:
        return tf.constant(1.0)
    return tf.cast(optimizer.inner_optimizer.iterations.value > count, tf.float32)


def count_of_accumulated(optimizer: Any) -> Any:
    """Returns how often an accumulating optimizer has moved the variables, or `None` for others."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return tf.identity(inner.iterations) if inner.gradient_accumulation_steps else None


def _times(gradient: Any, factor: Any) -> Any:
    factor = tf.cast(factor, gradient.dtype)
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(gradient.values * factor, gradient.indices, gradient.dense_shape)
    return gradient * factor


def put_back(variables: Sequence[Any], before: Sequence[Any], keep: Sequence[Any]) -> None:
    """Sets each variable back to its value `before`, where the boolean `keep` is true."""
    values = [
        tf.where(flag, old, variable.value)
        for variable, old, flag in zip(variables, before, keep, strict=True)
    ]
    replicas.assign(variables, values)


def apply_if(condition: Any, apply: Callable[[Any], None], gradients: list[Any]) -> None:
    """Calls `apply(gradients)` where `condition` holds, alike on all replicas."""
    # A cond with a merge call inside a branch is refused in a replica, allowed across them.
    tf.distribute.get_replica_context().merge_call(
        lambda strategy, flag, parts: _across(strategy, flag, apply, parts),
        args=(condition, gradients),
    )


def _across(strategy: Any, flag: Any, apply: Callable[[Any], None], gradients: Any) -> None:
    first = strategy.experimental_local_results(flag)[0]

    def applied(parts: Any) -> None:
        # All in the branch's graph: what is clipped there and what is not are summed together.
        apply([None if part is None else tf.identity(part) for part in parts])

    tf.cond(
        first,
        lambda: _nothing(strategy.extended.call_for_each_replica(applied, args=(gradients,))),
        lambda: _nothing(None),
    )


def _nothing(_: Any) -> None:
    return None


def check_policy(policy: Any) -> None:
    """Checks `on_nonfinite`."""
    checks.one_of("on_nonfinite", policy, POLICIES)
