"""Arithmetic over the replicas of a `tf.distribute` strategy; on one device it costs nothing."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf


def count() -> int:
    """Returns the number of replicas in sync under the current strategy."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def without_strategy() -> bool:
    """Whether no strategy is set: under one, of a single replica too, branches cannot assign."""
    return not tf.distribute.has_strategy()


def total(tensors: Sequence[Any]) -> list[Any]:
    """Sums each tensor over the replicas; to be called in a replica, inside the step."""
    tensors = list(tensors)
    if count() == 1 or not tensors:
        return tensors
    return list(tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tensors))


def sum_before(number: Any) -> Any:
    """Returns the sum of an integer over the replicas before this one; inside the step."""
    if count() == 1:
        return 0
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    numbers = total([tf.one_hot(replica, count(), on_value=number, off_value=0)])[0]
    return tf.reduce_sum(tf.where(tf.range(count()) < replica, numbers, 0))


def assign(variables: Sequence[Any], values: Sequence[Any]) -> None:
    """Assigns each replica's value to its copy of the variable, inside the step.

    `variable.assign` is refused in a replica for variables without an aggregation, which the
    weights of Keras layers are.
    """
    if not variables:
        return
    tf.__internal__.distribute.interim.maybe_merge_call(
        _assign_across_replicas,
        tf.distribute.get_strategy(),
        [variable.value for variable in variables],
        list(values),
    )


def _assign_across_replicas(strategy: Any, variables: list[Any], values: list[Any]) -> None:
    for variable, value in zip(variables, values, strict=True):
        strategy.extended.update(
            variable, lambda own, new: own.assign(new), args=(value,), group=False
        )


def choose(condition: Any, first: Callable[[], Any], second: Callable[[], Any]) -> Any:
    """Returns what `first` or `second` returns, alike on all replicas.

    Args:
        condition: Boolean scalar, the same on every replica.
        first: Function of no arguments, in which replicas may meet; called if it holds.
        second: Such a function with the same structure of results; called if not.
    """
    if without_strategy():
        return tf.cond(condition, first, second)
    # A cond with a merge call inside a branch is refused in a replica, allowed across them.
    found = tf.distribute.get_replica_context().merge_call(
        _choose_across_replicas, args=(condition, first, second)
    )
    # Made across replicas it has no device, and without one a single replica cannot reduce it.
    return tf.nest.map_structure(tf.identity, found)


def _choose_across_replicas(strategy: Any, condition: Any, first: Any, second: Any) -> Any:
    flag = strategy.experimental_local_results(condition)[0]

    def run(branch: Any) -> Any:
        return strategy.extended.call_for_each_replica(lambda own: own(), args=(branch,))

    return tf.cond(flag, lambda: run(first), lambda: run(second))


def several_workers(strategy: Any) -> bool:
    """Tells whether `strategy` spans several processes."""
    return (
        isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        and strategy.extended._in_multi_worker_mode()
    )
