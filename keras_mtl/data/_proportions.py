"""How often a mixture takes from each data set."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_mtl.core import checks

NAMED = ("proportional", "uniform", "annealed")


def proportions(weights: Any, sizes: Mapping[str, int | None], epochs: int) -> np.ndarray:
    """Returns the probability of each data set in each epoch.

    Args:
        weights: As in `keras_mtl.data.mix`.
        sizes: Dict from data set to its number of rows; `None` where it is not known.
        epochs: Integer >= 1.

    Returns:
        A float64 array of shape `(epochs, len(sizes))`, whose rows sum to 1.

    Raises:
        TypeError: If `weights` is none of these.
        ValueError: If a value does not fit, or a size that is needed is not known.
    """
    if isinstance(weights, Mapping):
        chances = np.array([_explicit(weights, sizes)] * epochs)
    else:
        powers = _powers(weights, epochs)
        chances = _relative(powers, sizes, weights) ** powers[:, None]
    return chances / chances.sum(axis=1, keepdims=True)


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


def _explicit(weights: Mapping[str, Any], sizes: Mapping[str, Any]) -> list[float]:
    data_set_names("weights", weights, sizes, partial=False)
    values = [checks.finite_weight(f"weights['{name}']", weights[name]) for name in sizes]
    if sum(values) == 0:
        raise ValueError(
            f"`weights` must have an entry > 0, received {checks.describe(dict(weights))}."
        )
    return [value / max(values) for value in values]


def _powers(weights: Any, epochs: int) -> np.ndarray:
    """Returns the power of the number of rows that each epoch goes by."""
    if not isinstance(weights, str):
        return np.full(epochs, 1 / checks.positive_number("weights", weights))
    checks.one_of("weights", weights, NAMED)
    if weights == "annealed":
        if epochs < 2:
            raise ValueError(
                "`weights='annealed'` needs `epochs` >= 2, over which to anneal, received "
                f"{epochs}. Give the number of epochs of the training."
            )
        # alpha = 1 - 0.8 (e - 1) / (E - 1), with e from 1 to E
        return 1 - 0.8 * np.arange(epochs) / (epochs - 1)
    return np.full(epochs, float(weights == "proportional"))


def _relative(powers: np.ndarray, sizes: Mapping[str, int | None], weights: Any) -> np.ndarray:
    """Returns n_i / max n: only ratios matter, and these do not overflow."""
    if not powers.any():
        return np.ones(len(sizes))
    rows = known(sizes, f"by which `weights={weights!r}` goes")
    return np.array(list(rows.values()), "float64") / max(rows.values())


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
