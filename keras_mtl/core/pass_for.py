"""Chooses the backward pass of a step by what its balancing has declared."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from keras_mtl.core.activations_pass import noting
from keras_mtl.core.balanced import SummedRows
from keras_mtl.core.dense_calls import worth_noting
from keras_mtl.core.features_pass import FeaturesPass
from keras_mtl.core.in_turn import SMALL
from keras_mtl.core.noted_calls import called_once, leaves
from keras_mtl.core.parameters_pass import OneTaskPass, ParametersPass
from keras_mtl.core.partition import Partition
from keras_mtl.core.passes import SummedPass
from keras_mtl.core.refresh import refreshing
from keras_mtl.core.rows_apart import keeps_rows_apart
from keras_mtl.core.split_pass import splitting
from keras_mtl.core.weighted_pass import ProductsPass, WeightedPass


def pass_for(
    balancing: Any,
    partition: Partition,
    model: Any,
    variables: Sequence[Any],
    *,
    detachable: bool,
    persistent: bool = False,
    compiled: bool = False,
) -> Callable[[], SummedPass]:
    """Returns a function that makes the backward pass of a step.

    Args:
        balancing: Gradient balancing, or `None`.
        partition: `Partition` of the model.
        model: The functional model.
        variables: List of Keras variables, the order of the gradients.
        detachable: Boolean. Whether some tasks may train their heads alone.
        persistent: Boolean. Whether its tape is asked for more than the gradients of the step.
        compiled: Boolean. Whether the step is compiled by XLA.
    """
    if not partition.shared(variables):
        kind = SummedPass
    elif balancing is None:
        # Nothing shared must hear of a detached task: the gradients are taken task by task.
        balancing = SummedRows() if detachable else None
        kind = _by_task(partition) if detachable else SummedPass
    else:
        kind = _balanced(balancing, partition, model, variables, detachable=detachable)
    if persistent:
        kind = type(kind.__name__, (kind,), {"persistent": True})
    options = {"detachable": detachable, "compiled": compiled}
    return partial(kind, variables, partition, balancing, **options)


def _by_task(partition: Partition) -> type[SummedPass]:
    return FeaturesPass if partition.cuts else ParametersPass


def _balanced(
    balancing: Any,
    partition: Partition,
    model: Any,
    variables: Sequence[Any],
    *,
    detachable: bool,
) -> type[SummedPass]:
    # What a detached task has in a common pass cannot be left out of it: it may be NaN.
    blind = balancing.reads_gramian_only and not balancing.needs_gramian and not detachable
    if balancing.scope == "features":
        kind = FeaturesPass if partition.cuts else SummedPass
    elif balancing.compares_halves:
        kind = _of_halves(balancing, partition, model, variables, blind=blind)
    elif balancing.needs_one_task:
        kind = OneTaskPass
    elif blind:
        kind = WeightedPass
    elif balancing.reads_gramian_only and balancing.needs_gramian:
        kind = noting(worth_noting(model, partition.shared(variables)))
    else:
        kind = ParametersPass
    return refreshing(kind) if balancing.refresh_every > 1 and kind is not SummedPass else kind


def _of_halves(
    balancing: Any, partition: Partition, model: Any, variables: Sequence[Any], *, blind: bool
) -> type[SummedPass]:
    shared = partition.shared(variables)
    layers = called_once(model, shared)
    splits = (
        model.distribute_strategy.num_replicas_in_sync == 1
        and len(shared) == sum(len(layer.variables) for layer in layers)
        and all(keeps_rows_apart(node.operation) for node in leaves(partition.shared_nodes()))
    )
    if blind and not balancing.needs_cross_gramian:
        # Two gradients in memory in place of all of both halves, where that matters.
        small = sum(math.prod(variable.shape) for variable in shared) < SMALL
        if not (splits and small):
            return ProductsPass
    return splitting(layers if splits else ())
