"""What in a training step may run before the batch is there, though counters must wait for it.

Hundreds of variables that are all read at the moment in which the batch arrives delay the forward
pass; read before, they cost nothing.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from keras_mtl.core import replicas


def forward_pass(model: Any) -> contextlib.AbstractContextManager[Any]:
    """Returns a context for a forward pass that lets a model without state of its own read early.

    Counters and random states are variables that are not trained: with them all of it waits.
    """
    stateless = not model.non_trainable_variables
    return tf.control_dependencies(None) if stateless else contextlib.nullcontext()


@contextlib.contextmanager
def updates(optimizer: Any) -> Iterator[None]:
    """Lets the optimizer's updates of single variables read early.

    Their writes wait for the gradient, and so for the batch, while the optimizer's counters, of
    which no gradient is part, go on waiting for it as they are told.
    """
    if not replicas.without_strategy():
        # Replicas trace in turns, and share the optimizer.
        yield
        return
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    given = vars(inner).get("update_step")
    update_step = inner.update_step

    def update_early(*args: Any, **kwargs: Any) -> Any:
        with tf.control_dependencies(None):
            return update_step(*args, **kwargs)

    inner.update_step = update_early
    try:
        yield
    finally:
        del inner.update_step
        if given is not None:
            inner.update_step = given
