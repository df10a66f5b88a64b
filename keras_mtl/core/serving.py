"""Exports a model as a SavedModel with one endpoint a task."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_mtl.core.compilation import head_of


def export(path: str, model: Any, tasks: Sequence[str], **kwargs: Any) -> None:
    """Writes a SavedModel that plain TensorFlow loads, without this package.

    Args:
        path: String. The folder to write.
        model: The functional model, with outputs by task.
        tasks: List of strings: the tasks of `serving_default`, each with `serve_<task>`.
        kwargs: Further arguments of `ExportArchive.write_out`.
    """
    archive = keras.export.ExportArchive()
    archive.track(model)
    signature = _signature(model)
    archive.add_endpoint("serve", _serve(model, tasks), input_signature=signature)
    for task in tasks:
        archive.add_endpoint(f"serve_{task}", _serve(model, [task]), input_signature=signature)
    archive.write_out(path, **kwargs)


def _signature(model: Any) -> list[Any]:
    """Returns one dict of specs: a signature's arguments get the inputs' names."""
    return [
        {
            tensor.name: tf.TensorSpec(
                (None, *tensor.shape[1:]),
                keras.backend.standardize_dtype(tensor.dtype),
                tensor.name,
            )
            for tensor in model.inputs
        }
    ]


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
    flat = {}
    for task, answer in answers.items():
        if isinstance(answer, Mapping):
            flat.update({f"{task}_{key}": tf.identity(value) for key, value in answer.items()})
        else:
            flat[task] = tf.identity(answer)
    return flat
