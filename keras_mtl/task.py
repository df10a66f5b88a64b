"""`Task`: what is to be learned from one output, as a specification."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import keras

from keras_mtl.core import checks


@keras.saving.register_keras_serializable(package="keras_mtl")
class Task:
    """Specifies one task: its head, tower, loss, metrics and part in training.

    A task is a specification and holds no weights: builders rebuild the head and the tower
    for every model, so two models built from one dict of tasks share nothing.

    Args:
        head: A `keras_mtl.heads.Head`, or any Keras layer when `loss` is given. Needed by the
            builders; left out where the model exists already.
        tower: Layer, model, list of layers, or function of no arguments that returns one:
            task-specific layers between trunk and head.
        features: String or list of strings. Which outputs of a trunk that returns a dict the
            head reads; needed when there are several.
        mask: String. Name of a model input (or trunk output) that holds a padding mask, True
            where there is data, of shape `(batch, steps)`. By default the Keras mask goes along;
            name one where a layer on the way loses it, as `keras.layers.Concatenate` does where
            it joins a masked tensor with one that is not: its mask is True everywhere.
        loss: Loss as in `compile`; by default the head's. An `ignore_class` of the loss marks
            missing labels, where the head's is left at its default.
        metrics: Metric or list of metrics as in `compile`; by default the head's.
        loss_weight: Float >= 0. The user's constant, before any loss weighting.
        auxiliary: Boolean. The task only helps the others: it trains, and `export` leaves it
            out unless it is named.
        where: String. Name of a task; this one is trained and measured only on rows whose
            label for that task is positive.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If `loss_weight` is negative or not finite, or `auxiliary` no boolean.

    Example:

    >>> task = keras_mtl.Task(keras_mtl.heads.BinaryClassification(), loss_weight=0.5)
    >>> task.loss_weight
    0.5
    """

    def __init__(
        self,
        head: Any = None,
        tower: Any = None,
        *,
        features: str | Sequence[str] | None = None,
        mask: str | None = None,
        loss: Any = None,
        metrics: Any = None,
        loss_weight: float = 1.0,
        auxiliary: bool = False,
        where: str | None = None,
    ) -> None:
        if head is not None and not isinstance(head, keras.layers.Layer):
            raise TypeError(
                f"`head` must be a Keras layer, received {checks.describe(head)}. "
                "Use a head from `keras_mtl.heads`, or any layer together with `loss`."
            )
        if isinstance(loss, list | tuple):
            raise TypeError(f"`loss` of a task must be one loss, received {checks.describe(loss)}.")
        checks.one_of("auxiliary", auxiliary, (False, True))
        self.head = head
        self.tower = tower
        self.features = _names("features", features)
        self.mask = _name("mask", mask)
        self.loss = loss
        self.metrics = metrics
        self.loss_weight = checks.loss_weight("loss_weight", loss_weight)
        self.auxiliary = bool(auxiliary)
        self.where = _name("where", where)

    @classmethod
    def of(cls, value: Any) -> Self:
        """Returns `value` as a task: a task as it is, a layer as the task's head."""
        if isinstance(value, cls):
            return value
        if isinstance(value, keras.layers.Layer):
            return cls(value)
        raise TypeError(
            "A task must be a `keras_mtl.Task` or a head (a Keras layer), received "
            f"{checks.describe(value)}."
        )

    def without_layers(self, *, mask: str | None = None) -> Self:
        """Returns the part of the task that a built model still needs.

        Args:
            mask: Optional string. The model input that holds the padding mask, where the graph
                does not carry the mask itself, as that of a builder does.
        """
        return type(self)(
            mask=mask,
            loss=self.loss,
            metrics=self.metrics,
            loss_weight=self.loss_weight,
            auxiliary=self.auxiliary,
            where=self.where,
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments, serialised."""
        names = ("head", "tower", "loss", "metrics")
        config = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in names}
        return {
            **config,
            "features": self.features,
            "mask": self.mask,
            "loss_weight": self.loss_weight,
            "auxiliary": self.auxiliary,
            "where": self.where,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Makes a task from what `get_config` returned."""
        config = dict(config)
        for name in ("head", "tower", "loss", "metrics"):
            config[name] = keras.saving.deserialize_keras_object(config.get(name))
        return cls(**config)


def _name(argument: str, value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"`{argument}` must be a name, received {checks.describe(value)}.")
    return value


def _names(argument: str, value: Any) -> str | list[str] | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Sequence) and value and all(isinstance(name, str) for name in value):
        return list(value)
    raise TypeError(
        f"`{argument}` must be a name or a list of names, received {checks.describe(value)}."
    )
