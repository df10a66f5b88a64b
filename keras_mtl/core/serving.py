"""Exports a model as a SavedModel with one endpoint a task."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_mtl.core import checks
from keras_mtl.core.compilation import head_of


def export(
    path: str, model: Any, tasks: Sequence[str], *, input_signature: Any = None, **kwargs: Any
) -> None:
    """Writes a SavedModel that plain TensorFlow loads, without this package.

    Args:
        path: String. The folder to write.
        model: The functional model, with outputs by task.
        tasks: List of strings: the tasks of `serving_default`, each with `serve_<task>`.
        input_signature: Optional shapes and dtypes of the inputs, as in Keras: a dict by name, or
            a list in order, of specs or tensors. By default batches of any size are served.
        kwargs: Further arguments of `ExportArchive.write_out`.

    Raises:
        TypeError: If `input_signature` or an entry has the wrong type.
        ValueError: If `input_signature` does not fit the model's inputs, or two outputs would be
            served by the same name.
    """
    signature = _signature(model, input_signature)
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", _serve(model, tasks), input_signature=signature)
    for task in tasks:
        archive.add_endpoint(f"serve_{task}", _serve(model, [task]), input_signature=signature)
    archive.write_out(path, **kwargs)


def _signature(model: Any, given: Any) -> list[Any]:
    """Returns one dict of specs: a signature's arguments get the inputs' names."""
    specs = _by_input([tensor.name for tensor in model.inputs], given)
    return [{tensor.name: _spec(tensor, specs.get(tensor.name)) for tensor in model.inputs}]


def _by_input(names: Sequence[str], given: Any) -> Mapping[str, Any]:
    if given is None:
        return {}
    if hasattr(given, "shape"):
        given = [given]
    if not isinstance(given, Mapping | list | tuple):
        raise TypeError(
            "`input_signature` must be a spec, a list or a dict of specs, received "
            f"{checks.describe(given)}. Write `{{'{names[0]}': keras.InputSpec(...)}}`."
        )
    if len(given) == 1 and not isinstance(given, Mapping) and not hasattr(given[0], "shape"):
        # Keras wraps the structure of the inputs in a list.
        return _by_input(names, given[0])
    received = list(given) if isinstance(given, Mapping) else given
    right = set(given) == set(names) if isinstance(given, Mapping) else len(given) == len(names)
    if not right:
        raise ValueError(
            f"`input_signature` must have one entry an input. Expected {list(names)}, received "
            f"{received}."
        )
    return given if isinstance(given, Mapping) else dict(zip(names, given, strict=True))


def _spec(tensor: Any, given: Any) -> tf.TensorSpec:
    """Returns the spec of one input: batches of any size, unless another is given."""
    shape = tf.TensorShape((None, *tensor.shape[1:]))
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    if given is None:
        return tf.TensorSpec(shape, dtype, tensor.name)
    argument = f"`input_signature['{tensor.name}']`"
    if not (hasattr(given, "shape") and hasattr(given, "dtype")):
        raise TypeError(
            f"{argument} must have a shape and a dtype, received {checks.describe(given)}. Write "
            f"`keras.InputSpec(shape={tuple(shape)}, dtype='{dtype}')`."
        )
    wanted = tf.TensorShape(given.shape)
    if not wanted.is_compatible_with(shape):
        raise ValueError(
            f"{argument} must fit the input's shape {tuple(shape)}, received {tuple(wanted)}."
        )
    return tf.TensorSpec(wanted, given.dtype or dtype, tensor.name)


def _serve(model: Any, tasks: Sequence[str]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    part = keras.Model(list(model.inputs), {task: model.output[task] for task in tasks})
    heads = {task: head_of(model.output[task]) for task in tasks}
    names = [tensor.name for tensor in model.inputs]

    def serve(inputs: Mapping[str, Any]) -> dict[str, Any]:
        predictions = part([inputs[name] for name in names], training=False)
        return _flat(
            {
                task: predictions[task] if head is None else head.decode(predictions[task])
                for task, head in heads.items()
            }
        )

    return serve


def _flat(answers: Mapping[str, Any]) -> dict[str, Any]:
    """Names the outputs `<task>`, or `<task>_<output>` where a head has several."""
    flat: dict[str, Any] = {}
    tasks: dict[str, str] = {}
    for task, answer in answers.items():
        parts = (
            {f"{task}_{key}": value for key, value in answer.items()}
            if isinstance(answer, Mapping)
            else {task: answer}
        )
        for name, value in parts.items():
            if name in tasks:
                raise ValueError(_served_twice(name, tasks[name], task))
            flat[name], tasks[name] = tf.identity(value), task
    return flat


def _served_twice(name: str, first: str, second: str) -> str:
    return (
        f"The outputs of a SavedModel must differ in name, but the tasks '{first}' and "
        f"'{second}' both have one that is served as '{name}': a head with several outputs "
        "serves each as '<task>_<output>'. Rename one of the tasks, or export one of them alone, "
        f"with `tasks=['{first}']`."
    )
