"""Hard parameter sharing: one trunk, and a head for each task."""

from collections.abc import Mapping
from typing import Any

from keras_mtl.architectures import _graph
from keras_mtl.core.rebuild import resolve_trunk
from keras_mtl.model import MultiTaskModel


def hard_sharing(
    inputs: Any, trunk: Any, tasks: Mapping[str, Any], *, name: str | None = None
) -> MultiTaskModel:
    """Builds one shared trunk with a head for each task.

    Task k predicts `head_k(tower_k(trunk(inputs)))`. The trunk is the object itself, weights
    included: pretrained ones stay, and two models built on one trunk share it. Towers and heads
    are made anew. Parameters: those of the trunk and of each task's tower and head, once.

    Args:
        inputs: Keras inputs (a tensor, a list, a dict), or tensors computed from them: a shared
            stem such as embeddings. An input that only tasks name as their `mask` does not go
            to the trunk, unless the trunk is a model with an input of that name.
        trunk: Layer, model, list of layers called in order, or function of no arguments that
            returns one of these. It returns a tensor, or a dict of which tasks choose with
            `Task(features=...)`.
        tasks: Dict from task name to a head or a `keras_mtl.Task`.
        name: Optional string. Name of the model.

    Returns:
        A `keras_mtl.MultiTaskModel`, whose outputs are a dict by task name.

    Raises:
        TypeError: If `inputs`, `trunk` or `tasks` is something else.
        ValueError: If a task's name, features, mask, tower or head does not fit the model.

    Example:

    >>> inputs = keras.Input((8,), name="person")
    >>> trunk = keras.layers.Dense(4, activation="relu")
    >>> tasks = {"age": keras_mtl.heads.Regression(), "job": keras_mtl.heads.Classification(3)}
    >>> model = keras_mtl.architectures.hard_sharing(inputs, trunk, tasks)
    >>> [tuple(output.shape) for output in model.output.values()]
    [(None, 1), (None, 3)]

    Reference:
        Caruana 1997, Multitask learning, Machine Learning 28, 41-75, figure 2,
        https://doi.org/10.1023/A:1007379606734.
    """
    # Layers.
    tasks = _graph.checked_tasks(tasks)
    sources = _graph.model_inputs(inputs)
    stages = resolve_trunk(trunk)
    layers = _graph.task_layers(tasks)

    # Functional model.
    shared = _graph.apply_stages(stages, _graph.trunk_inputs(inputs, stages[0], tasks))
    outputs = {
        key: _graph.task_output(key, task, layers[key], shared, sources)
        for key, task in tasks.items()
    }

    # Config.
    return _graph.multi_task_model(sources, outputs, tasks, name)
