"""How the main tasks' losses depend on the task weights, through the training they make.

For loss weightings that learn from it: `LossWeighting.hypergradient` names the way.
"""

from collections.abc import Callable
from typing import Any

from keras_mtl.core.step import Step
from keras_mtl.hypergradients.one_step import OneStepHypergradient

HYPERGRADIENTS: dict[str, Callable[[Step], Callable[[Any], None]]] = {
    "one_step": OneStepHypergradient,
}


def hypergradient_for(step: Step) -> Callable[[Any], None] | None:
    """Returns what the loss weighting of a step asks for, or `None`."""
    name = step.weighting.hypergradient
    return None if name is None else HYPERGRADIENTS[name](step)
