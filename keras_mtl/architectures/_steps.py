"""Tasks that follow from each other, such as click and purchase: what their heads need."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import keras

from keras_mtl.core.rebuild import rebuild, resolve_tower
from keras_mtl.heads import BinaryClassification
from keras_mtl.heads.base import Head
from keras_mtl.task import Task


def check_steps(tasks: Mapping[str, Task], architecture: str, advice: str = "") -> None:
    """Checks that each task is a yes or no about every row.

    Args:
        tasks: Dict of `Task`.
        architecture: String. The builder's name, for the message.
        advice: String. How to do without, where that is possible.

    Raises:
        ValueError: If a head is no `BinaryClassification`, their `units` differ, or a task leaves
            out rows.
    """
    for name, task in tasks.items():
        if not isinstance(task.head, BinaryClassification):
            raise ValueError(
                f"Tasks of {architecture} must have a `keras_mtl.heads.BinaryClassification` as "
                f"their head, for each is a step that is taken or not. Task '{name}' has a "
                f"{type(task.head).__name__}.{advice}"
            )
        if task.where is not None:
            raise ValueError(
                f"`where` of task '{name}' must be left out in {architecture}, received "
                f"'{task.where}': it predicts that this step and all before it are taken, of every "
                f"row. Label rows with 0 where an earlier step was not taken.{advice}"
            )
    units = {name: task.head.units for name, task in tasks.items()}
    if len(set(units.values())) > 1:
        raise ValueError(
            f"Heads of {architecture} must have equal `units`, received {units}. Give each task "
            f"the same labels.{advice}"
        )


def logit_layers(tasks: Mapping[str, Task], part: str) -> dict[str, list[keras.layers.Layer]]:
    """Returns each task's tower and a head `<task>_<part>` that returns logits, made anew."""
    return {
        name: [*resolve_tower(task.tower, name), _without_activation(task.head, f"{name}_{part}")]
        for name, task in tasks.items()
    }


def _without_activation(head: Any, name: str) -> Any:
    head = rebuild(head, name)
    head.activation = None
    return head


class StepHead(Head):
    """Base class of the last layer of a step: from logits to what one serves.

    Its loss, metrics and activation are those of a head that stands before it in the graph.

    Args:
        head: The task's head; it lends its arguments only.
        name: String. Name of the layer, the task's.

    Call arguments:
        logits: List of tensors of one shape: the task's own logits, then those of other steps.
            The mask of the task's own goes along.

    Output shape: that of the logits.

    Raises:
        ValueError: If some steps are predicted once a row and others once a position.
    """

    def __init__(self, head: Head, **kwargs: Any) -> None:
        # Not cast under mixed precision: logits come in float32, and losses need them so.
        super().__init__(ignore_class=head.ignore_class, autocast=False, **kwargs)
        # Not tracked: this head is never built.
        object.__setattr__(self, "_lender", head)

    def logit(self, logits: Sequence[Any], mask: Any = None) -> Any:
        """Returns the logits of the predictions, made of those of the steps."""
        raise NotImplementedError

    def build(self, logits_shape: Any) -> None:
        if len({len(shape) for shape in logits_shape}) > 1:
            raise ValueError(
                f"The steps up to '{self.name}' must be predicted all once a row or all once a "
                f"position, received logits of shape {[tuple(x) for x in logits_shape]}, its own "
                "first. Give all heads the same `pooling`."
            )

    def call(self, logits: Sequence[Any], mask: Any = None) -> Any:
        activation = keras.activations.get(self._lender.activation)
        return activation(self.logit(logits, mask))

    def compute_mask(self, logits: Any, mask: Any = None) -> Any:
        del logits
        return None if mask is None else mask[0]

    def default_loss(self) -> Any:
        return self._lender.default_loss()

    def default_metrics(self) -> list[Any]:
        return self._lender.default_metrics()

    def decode(self, predictions: Any) -> Any:
        return self._lender.decode(predictions)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["ignore_class"]
        return {**config, "head": keras.saving.serialize_keras_object(self._lender)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Makes a layer from what `get_config` returned."""
        head = keras.saving.deserialize_keras_object(config["head"])
        return super().from_config({**config, "head": head})
