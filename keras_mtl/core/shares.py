"""Shares of the active tasks."""

from typing import Any

from keras import ops

# Far below any logit, and still finite: all tasks may be absent.
ABSENT = -1e30


def log_softmax(logits: Any, active: Any) -> Any:
    """Returns the logarithms of the active tasks' shares; those of the others are about -1e30."""
    return ops.log_softmax(ops.where(active > 0, logits, ABSENT))


def softmax(logits: Any, active: Any) -> Any:
    """Returns shares `(num_tasks,)` that sum to 1 over the active tasks, 0 for the others."""
    # Keras' own warns where there is but one task.
    return ops.where(active > 0, ops.exp(log_softmax(logits, active)), 0.0)
