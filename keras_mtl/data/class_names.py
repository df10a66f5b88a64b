"""The names of the classes that labels from TensorFlow Datasets stand for."""

from collections.abc import Mapping
from typing import Any

from keras_mtl.data import _tfds


def class_names(
    name_or_builder: Any, targets: Mapping[str, Any], *, data_dir: Any = None
) -> dict[str, list[str]]:
    """Lists the names of the classes of each task, in the order of the class ids.

    Needs the extra `keras_mtl[tfds]`. Nothing is read or downloaded.

    Args:
        name_or_builder: As in `keras_mtl.data.from_tfds`.
        targets: Dict from task to the name of a feature, as in `keras_mtl.data.from_tfds`.
            Functions, dicts and features that are no class labels are left out.
        data_dir: As in `keras_mtl.data.from_tfds`.

    Returns:
        Dict from task to a list of names.

    Raises:
        ImportError: If tensorflow_datasets is not installed.
        TypeError: If an argument has another type.
        ValueError: If the data set does not have a feature.

    Example:

    >>> names = keras_mtl.data.class_names("fashion_mnist", {"item": "label"})["item"]
    >>> len(names), names[0]
    (10, 'T-shirt/top')
    """
    _tfds.check_targets(targets)
    builder = _tfds.builder_of(name_or_builder, data_dir)
    features = dict(_tfds.paths(builder.info.features))
    found = {
        task: _names(_tfds.find(f"targets['{task}']", name, features, builder.info.full_name))
        for task, name in targets.items()
        if isinstance(name, str)
    }
    return {task: names for task, names in found.items() if names}


def _names(feature: Any) -> list[str]:
    # A sequence of class labels holds them as its feature.
    while hasattr(feature, "feature"):
        feature = feature.feature
    return list(getattr(feature, "names", None) or [])
