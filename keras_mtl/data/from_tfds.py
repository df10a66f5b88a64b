"""Rows with the labels of several tasks from TensorFlow Datasets."""

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from keras_mtl.core import checks
from keras_mtl.data import _tfds


def from_tfds(
    name_or_builder: Any,
    split: Any,
    *,
    inputs: Any,
    targets: Mapping[str, Any],
    data_dir: Any = None,
    download: bool = True,
    **kwargs: Any,
) -> tf.data.Dataset:
    """Reads rows of a TensorFlow Datasets data set, with a label for each task.

    What is told where is a feature's name, a function of the example, or a dict of these. Rows
    come one by one: `.shuffle(...)`, `.batch(...)`, or mix them with others by
    `keras_mtl.data.mix`. Needs the extra `keras_mtl[tfds]`.

    Args:
        name_or_builder: Name of the data set such as `"mnist"` or `"coco/2017"`, or a
            `tfds.core.DatasetBuilder`.
        split: Split such as `"train"` or `"train[:80%]"`.
        inputs: The model's inputs: the name of a feature, within others `"objects/bbox"`; a
            function of the example, a dict of tensors; or a dict of these by input.
        targets: Dict from task to its label, told as inputs are; labels of several parts are
            a dict: `{"detect": {"boxes": "objects/bbox", "labels": "objects/label"}}`.
        data_dir: Optional path where data sets are stored, as in `tfds.load`.
        download: Boolean. Whether to download and prepare the data set where it is not stored.
        kwargs: `shuffle_files`, `decoders` and `read_config`, as in `tfds.load`.

    Returns:
        A `tf.data.Dataset` of rows `(x, {task: label})`.

    Raises:
        ImportError: If tensorflow_datasets is not installed.
        TypeError: If an argument has another type.
        ValueError: If the data set does not have a feature or split, or a task's name is none.

    Example:

    >>> import tensorflow_datasets as tfds
    >>> with tfds.testing.mock_data(num_examples=2):
    ...     rows = keras_mtl.data.from_tfds(
    ...         "mnist", "train", inputs="image", targets={"digit": "label"}
    ...     )
    >>> x, y = rows.element_spec
    >>> x.shape, y["digit"].dtype.name
    (TensorShape([28, 28, 1]), 'int64')
    """
    _tfds.check_targets(targets)
    builder = _tfds.builder_of(name_or_builder, data_dir)
    if download:
        builder.download_and_prepare()
    examples = builder.as_dataset(split=split, **kwargs)
    if not isinstance(examples, tf.data.Dataset):
        raise TypeError(f"`split` must be one split, received {checks.describe(split)}.")
    features = dict(_tfds.paths(examples.element_spec))
    for argument, choice in (("inputs", inputs), ("targets", targets)):
        _check(argument, choice, features, builder.info.full_name)

    def choose(example: Any) -> tuple[Any, dict[str, Any]]:
        read = dict(_tfds.paths(example))
        return _chosen(inputs, example, read), _chosen(targets, example, read)

    return examples.map(choose, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _check(argument: str, choice: Any, features: Mapping[str, Any], data_set: str) -> None:
    if isinstance(choice, str):
        _tfds.find(argument, choice, features, data_set)
    elif isinstance(choice, Mapping):
        for key, part in choice.items():
            _check(f"{argument}['{key}']", part, features, data_set)
    elif not isinstance(choice, Callable):
        raise TypeError(
            f"`{argument}` must be a feature's name, a function of the example or a dict of "
            f"these, received {checks.describe(choice)}. Features: {list(features)}."
        )


def _chosen(choice: Any, example: Any, read: Mapping[str, Any]) -> Any:
    if isinstance(choice, str):
        return read[choice]
    if isinstance(choice, Mapping):
        return {key: _chosen(part, example, read) for key, part in choice.items()}
    return choice(example)
