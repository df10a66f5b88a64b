"""What TensorFlow Datasets is asked for."""

from collections.abc import Iterator, Mapping
from typing import Any

from keras_mtl.core import checks


def tensorflow_datasets() -> Any:
    """Returns the package, if it is installed."""
    try:
        import tensorflow_datasets as tfds  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(
            'Data sets by name need tensorflow_datasets. Install it with `pip install "'
            'keras_mtl[tfds]"`.'
        ) from error
    return tfds


def builder_of(name_or_builder: Any, data_dir: Any = None) -> Any:
    """Returns the builder of a data set, from its name or as it is."""
    tfds = tensorflow_datasets()
    if isinstance(name_or_builder, tfds.core.DatasetBuilder):
        return name_or_builder
    if isinstance(name_or_builder, str):
        return tfds.builder(name_or_builder, data_dir=data_dir)
    raise TypeError(
        "`name_or_builder` must be the name of a data set or a `tfds.core.DatasetBuilder`, "
        f"received {checks.describe(name_or_builder)}."
    )


def paths(features: Any, inside: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the name of each feature and what stands there, those within others as `a/b`."""
    for name, value in features.items():
        yield f"{inside}{name}", value
        # A sequence of dicts is read as a dict of sequences.
        below = getattr(value, "feature", value)
        if hasattr(below, "items"):
            yield from paths(below, f"{inside}{name}/")


def check_targets(targets: Any) -> None:
    """Checks that targets are a dict by task."""
    if not isinstance(targets, Mapping):
        raise TypeError(
            "`targets` must be a dict from task to a feature's name or a function, received "
            f"{checks.describe(targets)}. Write `targets={{'task': 'label'}}`."
        )
    checks.task_names(targets)


def find(argument: str, name: str, features: Mapping[str, Any], data_set: str) -> Any:
    """Returns the feature that `argument` names."""
    if name not in features:
        raise ValueError(
            f"`{argument}` names the feature '{name}', which the data set '{data_set}' does not "
            f"have. Features: {list(features)}.{checks.suggestion(name, features)}"
        )
    return features[name]
