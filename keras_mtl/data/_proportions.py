"""How often a mixture takes from each data set."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_mtl.core import checks
from keras_mtl.data._sizes import data_set_names, known

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
    if not powers.any() or len(sizes) == 1:
        return np.ones(len(sizes))
    rows = known(sizes, f"by which `weights={weights!r}` goes")
    return np.array(list(rows.values()), "float64") / max(rows.values())
