"""Entire space multi-task model: each step is predicted as a product of conditionals."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_mtl.architectures import _graph
from keras_mtl.architectures._columns import task_columns
from keras_mtl.architectures._steps import StepHead, check_steps, logit_layers
from keras_mtl.core.rebuild import resolve_trunk
from keras_mtl.model import MultiTaskModel


def esmm(
    inputs: Any,
    trunk: Any,
    tasks: Mapping[str, Any],
    *,
    copy_weights: bool = False,
    name: str | None = None,
) -> MultiTaskModel:
    """Builds an entire space multi-task model (ESMM).

    For tasks that follow from each other, in the order of `tasks`: a click, then a purchase. Task k
    predicts that its step and all before it are taken, `p_k = c_1 ... c_k`, where its conditional
    `c_k = sigmoid(z_k)`, `z_k = head_k(tower_k(trunk_k(inputs)))`, has no loss of its own. So all
    tasks train on all rows, and p_k never exceeds p_(k - 1). Losses are computed from
    `logit(p_k)`, which is finite for logits of any size.

    Trunks are named `<task>_<stage>`, or `<task>_column` of a single stage; the layer that returns
    z_k is `<task>_conditional`, its sigmoid the conversion rate (see the example). Parameters: for
    each task those of the trunk, of its tower and of its head.

    The variables of a task are shared by it and all later tasks, those of the last are private.
    Tasks share features only where `inputs` is a stem, such as embeddings; sharing ends there and
    at the conditionals.

    Args:
        inputs: As in `hard_sharing`.
        trunk: As in `hard_sharing`; rebuilt for each task, with other initial values in each.
        tasks: Dict from task name to a `keras_mtl.heads.BinaryClassification`, or a
            `keras_mtl.Task` with one. A label is 1 where this step and all before it were taken.
        copy_weights: Boolean. Whether every trunk starts from the given one's weights.
        name: Optional string. Name of the model.

    Returns:
        A `keras_mtl.MultiTaskModel`, whose outputs are a dict by task name.

    Raises:
        TypeError: If `inputs`, `trunk` or `tasks` is something else.
        ValueError: If a head is no binary one, `units` or pooling of the heads differ, a task has
            `where`, the trunk cannot be rebuilt, or a task does not fit.

    Example:

    >>> inputs = keras.Input((8,), name="impression")
    >>> trunk = keras.layers.Dense(4, activation="relu")
    >>> head = keras_mtl.heads.BinaryClassification()
    >>> tasks = {"clicked": head, "bought": head}
    >>> model = keras_mtl.architectures.esmm(inputs, trunk, tasks)
    >>> model.count_params() == 2 * ((8 + 1) * 4 + (4 + 1) * 1)
    True
    >>> after_a_click = keras.ops.sigmoid(model.get_layer("bought_conditional").output)
    >>> keras.Model(model.input, after_a_click).output_shape
    (None, 1)

    Reference:
        X. Ma et al. 2018, Entire space multi-task model: an effective approach for estimating
        post-click conversion rate, pCTCVR = pCTR pCVR, https://arxiv.org/abs/1804.07931.
        Differs from the paper: any number of steps, not two; the product is taken in log space.
    """
    # Layers.
    tasks = _graph.checked_tasks(tasks)
    check_steps(tasks, "esmm")
    sources = _graph.model_inputs(inputs)
    stages = resolve_trunk(trunk)
    columns = task_columns(stages, tasks, copy_weights=copy_weights)
    layers = logit_layers(tasks, "conditional")

    # Functional model.
    read = _graph.trunk_inputs(inputs, stages[0], tasks)
    logits: list[Any] = []  # the last step first
    outputs = {}
    for key, task in tasks.items():
        features = columns[key](read)
        logits = [_graph.task_output(key, task, layers[key], features, sources), *logits]
        outputs[key] = AllSteps(task.head, name=key)(logits)

    # Config.
    return _graph.multi_task_model(sources, outputs, tasks, name)


@keras.saving.register_keras_serializable(package="keras_mtl")
class AllSteps(StepHead):
    """Predicts that all steps are taken: the product of the sigmoids of their logits."""

    def logit(self, logits: Sequence[Any], mask: Any = None) -> Any:
        del mask
        return functools.reduce(_logit_of_both, logits)


def _logit_of_both(first: Any, second: Any) -> Any:
    # p = sigmoid(u) sigmoid(v), so 1 / p = (1 + e^-u) (1 + e^-v), and the odds against are
    # (1 - p) / p = e^-u + e^-v + e^-(u + v). Their log needs no 1 - p, which is 0 in float32
    # from logits of about 17 on.
    against = ops.stack([-first, -second, -first - second], axis=-1)
    return -ops.logsumexp(against, axis=-1)
