"""How the main tasks' losses depend on the task weights, through the training they make.

For loss weightings that learn from it: `LossWeighting.hypergradient` names the way.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_mtl.core import update
from keras_mtl.core.step import Step
from keras_mtl.hypergradients.implicit import ImplicitHypergradient
from keras_mtl.hypergradients.one_step import OneStepHypergradient

HYPERGRADIENTS: dict[str, Callable[..., Callable[[Any], None]]] = {
    "implicit": ImplicitHypergradient,
    "one_step": OneStepHypergradient,
}


def hypergradient_for(step: Step) -> Callable[[Any], None] | None:
    """Returns what the loss weighting of a step asks for, or `None`."""
    weighting = step.weighting
    if weighting.hypergradient is None:
        return None
    tell = HYPERGRADIENTS[weighting.hypergradient](step, **weighting.hypergradient_options)
    return lambda data: _tell_if_due(weighting.hypergradient_due(), tell, data)


def _tell_if_due(due: Any, tell: Callable[[Any], None], data: Any) -> None:
    if due is None:
        tell(data)
    else:
        parts = tf.nest.flatten(data)
        update.apply_if(due, lambda flat: tell(tf.nest.pack_sequence_as(data, flat)), parts)
