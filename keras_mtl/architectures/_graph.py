"""What every builder does: tasks, inputs, trunk, features, towers, heads, model."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras

from keras_mtl.core import checks
from keras_mtl.core.masks import WithMask
from keras_mtl.core.rebuild import rebuild, resolve_tower
from keras_mtl.heads.base import Head
from keras_mtl.model import MultiTaskModel
from keras_mtl.task import Task


def checked_tasks(tasks: Any) -> dict[str, Task]:
    """Returns `tasks` as a dict of `Task`, each with a head and a loss.

    Raises:
        TypeError: If `tasks` is no dict, or an entry is neither task nor head.
        ValueError: If it is empty, a name is not valid, or a task lacks its head or loss.
    """
    if not isinstance(tasks, Mapping):
        raise TypeError(
            "`tasks` must be a dict from task name to a head or a `keras_mtl.Task`, received "
            f"{checks.describe(tasks)}."
        )
    if not tasks:
        raise ValueError("`tasks` must have at least one entry, received an empty dict.")
    checks.task_names(tasks)
    resolved = {name: Task.of(value) for name, value in tasks.items()}
    for name, task in resolved.items():
        _check_task(name, task)
    return resolved


def task_layers(tasks: Mapping[str, Task]) -> dict[str, list[keras.layers.Layer]]:
    """Returns each task's own layers, made anew: its tower's, then its head, named as the task."""
    return {
        name: [*resolve_tower(task.tower, name), rebuild(task.head, name)]
        for name, task in tasks.items()
    }


def model_inputs(inputs: Any) -> Any:
    """Returns the inputs of the model that begins with `inputs`.

    Args:
        inputs: Keras inputs (a tensor, a list, a dict), or tensors computed from them.

    Returns:
        Keras inputs as they are; else those that `inputs` are computed from: one tensor, or a
        dict by name.

    Raises:
        TypeError: If something among `inputs` is no tensor of a Keras graph.
    """
    tensors = keras.tree.flatten(inputs)
    for tensor in tensors:
        if not isinstance(tensor, keras.KerasTensor) or not hasattr(tensor, "_keras_history"):
            raise TypeError(
                "`inputs` must be Keras tensors: `keras.Input(...)`, a list or dict of them, or "
                f"what layers return for them. Received {checks.describe(tensor)}."
            )
    if all(_is_input(tensor) for tensor in tensors):
        return inputs
    nodes = _upstream_nodes(tensors)
    sources = [tensor for node in nodes if node.is_input for tensor in node.output_tensors]
    return sources[0] if len(sources) == 1 else {source.name: source for source in sources}


def trunk_inputs(inputs: Any, stage: keras.layers.Layer, tasks: Mapping[str, Task]) -> Any:
    """Returns what the trunk reads: `inputs` without the padding masks that tasks name.

    A mask stays when the trunk is a model with an input of that name. Of several inputs, one
    that remains alone is passed as a tensor.

    Args:
        inputs: What the user gave the builder.
        stage: The first stage of the trunk.
        tasks: Dict of `Task`.
    """
    names = {tensor.name for tensor in getattr(stage, "inputs", None) or ()}
    masks = {task.mask for task in tasks.values() if task.mask} - names
    given = [t for t in keras.tree.flatten(inputs) if _is_input(t) and t.name in masks]
    if not given or isinstance(inputs, keras.KerasTensor):
        return inputs
    dropped = {id(tensor) for tensor in given}
    if isinstance(inputs, Mapping):
        rest: Any = {key: x for key, x in inputs.items() if id(x) not in dropped}
    else:
        rest = [x for x in inputs if id(x) not in dropped]
    return keras.tree.flatten(rest)[0] if len(rest) == 1 else rest


def apply_stages(stages: Iterable[keras.layers.Layer], features: Any) -> Any:
    """Returns what the stages of a trunk make of `features`, one after the other.

    Raises:
        ValueError: If a stage cannot take what it is given, or returns a list.
    """
    for stage in stages:
        if isinstance(features, keras.KerasTensor):
            advice = "Give a trunk for this shape."
        else:
            advice = "Give a trunk that takes this structure, or join the tensors before it."
        features = _call(stage, features, f"Stage '{stage.name}' of `trunk`", advice)
        if isinstance(features, list | tuple):
            raise ValueError(
                f"Stage '{stage.name}' of `trunk` returns {len(features)} tensors in a "
                f"{type(features).__name__}. Return a dict, so that tasks can choose by name "
                "with `keras_mtl.Task(features=...)`."
            )
    return features


def task_output(
    name: str, task: Task, layers: Iterable[keras.layers.Layer], features: Any, sources: Any
) -> Any:
    """Returns a task's predictions from what the trunk returns for it.

    Args:
        name: String. The task's name.
        task: The `Task`.
        layers: Its own layers, such as `task_layers` makes: its tower's, then its head.
        features: Tensor or dict of tensors. What the trunk returns.
        sources: The model's inputs, from `model_inputs`; a mask may be among them.

    Raises:
        ValueError: If the task's features, mask, tower or head do not fit.
    """
    chosen = _chosen_features(name, task, features)
    if task.mask is not None:
        mask = _mask(name, task.mask, features, sources)
        layer = WithMask(name=f"{name}_mask")
        advice = "Give `features` that have steps, or a mask for them."
        chosen = _call(layer, chosen, f"Task '{name}': its mask '{task.mask}'", advice, mask=mask)
    for layer in layers:
        part = "tower" if layer.name.startswith(f"{name}_tower") else "head"
        advice = "Choose others with `Task(features=...)`, or adapt them in a tower."
        chosen = _call(layer, chosen, f"Task '{name}': its {part} {type(layer).__name__}", advice)
    return chosen


def multi_task_model(
    sources: Any,
    outputs: Mapping[str, Any],
    tasks: Mapping[str, Task],
    name: str | None,
    make: Callable[..., MultiTaskModel] = MultiTaskModel,
) -> MultiTaskModel:
    """Returns the model from its inputs to the tasks' predictions.

    Args:
        sources: The model's inputs, from `model_inputs`.
        outputs: Dict from task name to its predictions.
        tasks: Dict of `Task`; the model keeps what is left without layers.
        name: Optional string. Name of the model.
        make: The model's class, or a function with its arguments.

    Raises:
        ValueError: If a task has the name of an input or of another layer, or two layers have
            one name.
    """
    _check_layer_names([*keras.tree.flatten(outputs), *keras.tree.flatten(sources)], outputs)
    specifications = {key: task.without_layers() for key, task in tasks.items()}
    return make(sources, dict(outputs), name=name, tasks=specifications)


def _check_task(name: str, task: Task) -> None:
    if task.head is None:
        raise ValueError(
            f"Task '{name}' has no head. Give it one, for example "
            "`keras_mtl.Task(keras_mtl.heads.Regression(), ...)`."
        )
    if task.loss is None and not isinstance(task.head, Head):
        raise ValueError(
            f"Task '{name}' has no loss: its head is a {type(task.head).__name__}, which has none "
            "of its own. Give `keras_mtl.Task(head, loss=...)`, or a head from `keras_mtl.heads`."
        )


def _chosen_features(name: str, task: Task, features: Any) -> Any:
    if not isinstance(features, Mapping):
        if task.features is not None:
            raise ValueError(
                f"Task '{name}' chooses the features {task.features!r}, but the trunk returns one "
                "tensor. Leave `features` out, or let the trunk return a dict."
            )
        return features
    wanted = task.features
    if wanted is None and len(features) > 1:
        raise ValueError(
            f"Task '{name}' must choose its features, for the trunk returns a dict with the "
            f"entries {list(features)}. Give `keras_mtl.Task(features='{next(iter(features))}')`, "
            "or a list of names."
        )
    if wanted is None:
        return next(iter(features.values()))
    for key in [wanted] if isinstance(wanted, str) else wanted:
        if key not in features:
            raise ValueError(
                f"Task '{name}' chooses the features '{key}', which the trunk does not return."
                f"{checks.suggestion(key, features)} Entries: {list(features)}."
            )
    return features[wanted] if isinstance(wanted, str) else {key: features[key] for key in wanted}


def _mask(task: str, name: str, features: Any, sources: Any) -> Any:
    found = {tensor.name: tensor for tensor in keras.tree.flatten(sources)}
    entries = features if isinstance(features, Mapping) else {}
    if name in found:
        return found[name]
    if name in entries:
        return entries[name]
    raise ValueError(
        f"Task '{task}': its mask '{name}' is neither an input of the model nor an output of the "
        f"trunk.{checks.suggestion(name, [*found, *entries])} Inputs: {list(found)}. "
        f"Outputs of the trunk by name: {list(entries)}."
    )


def _call(layer: keras.layers.Layer, features: Any, what: str, advice: str, **kwargs: Any) -> Any:
    try:
        return layer(features, **kwargs)
    except Exception as error:
        shapes = keras.tree.map_structure(lambda x: str(tuple(x.shape)), features)
        if isinstance(features, Mapping):
            advice += " Several features come in a dict by name."
        # A `KeyError` says no more than its key.
        reason = repr(error) if isinstance(error, KeyError) else error
        raise ValueError(
            f"{what} cannot take features of shape {shapes}. {advice} Reason: {reason}"
        ) from error


def _is_input(tensor: Any) -> bool:
    return isinstance(tensor._keras_history.operation, keras.layers.InputLayer)


def _upstream_nodes(tensors: Iterable[Any]) -> list[Any]:
    """Returns the nodes that `tensors` are computed by, each once."""
    found: dict[int, Any] = {}
    waiting = list(tensors)
    while waiting:
        history = waiting.pop(0)._keras_history
        node = history.operation._inbound_nodes[history.node_index]
        if id(node) not in found:
            found[id(node)] = node
            waiting.extend(node.input_tensors)
    return list(found.values())


def _check_layer_names(tensors: Iterable[Any], tasks: Iterable[str]) -> None:
    found: dict[str, Any] = {}
    for node in _upstream_nodes(tensors):
        operation = node.operation
        other = found.setdefault(operation.name, operation)
        if other is operation:
            continue
        kinds = f"{type(other).__name__} and {type(operation).__name__}"
        if operation.name in tasks:
            raise ValueError(
                f"Task '{operation.name}' has the name of an input or another layer of the model "
                f"({kinds}). Rename the task or the other."
            )
        raise ValueError(
            f"Two layers of the model are named '{operation.name}' ({kinds}). Give each a `name` "
            "of its own."
        )
