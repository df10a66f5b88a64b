"""How many rows the data sets of a mixture have."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from keras_mtl.core import checks
from keras_mtl.core.first_element import before_shuffle, first_element, is_free_to_look


def sizes_of(
    datasets: Mapping[str, tf.data.Dataset], given: Mapping[str, int]
) -> dict[str, int | None]:
    """Returns the number of rows of each data set, as given or as it tells, else `None`.

    Raises:
        ValueError: If a data set is empty, or `given` does not fit.
    """
    data_set_names("sizes", given, datasets)
    return {
        name: checks.positive_integer(f"sizes['{name}']", given[name])
        if name in given
        else _size(name, dataset)
        for name, dataset in datasets.items()
    }


def _size(name: str, dataset: tf.data.Dataset) -> int | None:
    size = int(dataset.cardinality())
    if size > 0:
        return size
    if size == tf.data.INFINITE_CARDINALITY:
        return None
    # A first row is read only where nothing else tells whether there is one.
    rows = before_shuffle(dataset)
    if size == 0 or (is_free_to_look(rows) and first_element(rows) is None):
        raise ValueError(
            f"`datasets['{name}']` must have rows, received an empty data set. Leave it out, or "
            "look for a filter or a file pattern that lets nothing through."
        )
    return None


def known(sizes: Mapping[str, int | None], reason: str) -> dict[str, int]:
    """Returns the sizes, if all are known."""
    unknown = [name for name, size in sizes.items() if size is None]
    if unknown:
        example = ", ".join(f"'{name}': ..." for name in unknown)
        raise ValueError(
            f"`sizes` must give the number of rows of {unknown}, which their data sets do not "
            f"tell and {reason}. Write `sizes={{{example}}}`."
        )
    return {name: size for name, size in sizes.items() if size is not None}


def data_set_names(
    argument: str, received: Any, expected: Mapping[str, Any], *, partial: bool = True
) -> None:
    """Checks that the mapping `received` is keyed by names of data sets."""
    if not isinstance(received, Mapping):
        raise TypeError(
            f"`{argument}` must be a dict keyed by data set, received {checks.describe(received)}. "
            f"Expected keys: {list(expected)}."
        )
    unknown = [name for name in received if name not in expected]
    missing = [name for name in expected if name not in received and not partial]
    if unknown or missing:
        hint = checks.suggestion(unknown[0], missing or expected) if unknown else ""
        raise ValueError(
            f"`{argument}` must be keyed by data set. Expected keys {list(expected)}, received "
            f"{list(received)}. Missing: {missing}. Unknown: {unknown}.{hint}"
        )
