"""Splits that keep a group together."""

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_mtl.core import checks


def split_by_group(
    groups: Sequence[Any] | np.ndarray, fractions: Mapping[str, float], *, seed: int | None = None
) -> dict[str, np.ndarray]:
    """Splits rows so that all rows of a group come into one split.

    Rows of one subject, speaker or document resemble each other, so that a model tested on rows
    of a group that it was trained on seems better than it is. Groups are shuffled, and each goes
    to the split that lacks most rows. A split has at most one group's rows more than its
    fraction; the last groups go to splits that would have none.

    Args:
        groups: Sequence or array with the group of each row: integers or strings.
        fractions: Dict from split to its fraction of the rows, > 0 each, 1 in all.
        seed: Optional integer. Makes the split repeatable; `None` (default) draws anew.

    Returns:
        Dict from split to the sorted indices of its rows. Each row is in one split.

    Raises:
        TypeError: If `fractions` is no dict, or `seed` no integer.
        ValueError: If fractions are not > 0 or do not add up to 1, `groups` is not
            one-dimensional or lacks a row's group, or there are fewer groups than splits.

    Example:

    >>> speakers = ["ann", "ann", "bob", "cem", "cem", "dee"]
    >>> fractions = {"train": 0.5, "test": 0.5}
    >>> rows = keras_mtl.data.split_by_group(speakers, fractions, seed=0)
    >>> sorted([*rows["train"], *rows["test"]])
    [0, 1, 2, 3, 4, 5]
    >>> {speakers[row] for row in rows["train"]} & {speakers[row] for row in rows["test"]}
    set()
    """
    shares = _shares(fractions)
    names, group_of_row = np.unique(_one_group_a_row(groups), return_inverse=True)
    if len(names) < len(shares):
        raise ValueError(
            f"`groups` must hold at least as many groups as there are splits, {len(shares)}, "
            f"received {len(names)}: {checks.describe(names.tolist())}. Ask for fewer splits."
        )
    sizes = np.bincount(group_of_row)
    order = np.random.default_rng(_nonnegative(seed)).permutation(len(names))
    split_of_group = _assigned(sizes, order, len(group_of_row) * shares)
    return {
        split: np.flatnonzero(split_of_group[group_of_row] == index)
        for index, split in enumerate(fractions)
    }


def _assigned(sizes: np.ndarray, order: np.ndarray, lacking: np.ndarray) -> np.ndarray:
    """Returns the split of each group; `lacking` is how many rows each split is to get."""
    split_of_group = np.empty(len(order), "int64")
    empty = set(range(len(lacking)))
    for place, group in enumerate(order):
        # The groups that are left are needed where a split has none.
        open_to = sorted(empty) if len(order) - place == len(empty) else range(len(lacking))
        split = max(open_to, key=lambda index: lacking[index])
        split_of_group[group] = split
        lacking[split] -= sizes[group]
        empty.discard(split)
    return split_of_group


def _shares(fractions: Any) -> np.ndarray:
    if not isinstance(fractions, Mapping):
        raise TypeError(
            "`fractions` must be a dict from split to its fraction of the rows, received "
            f"{checks.describe(fractions)}. Write `{{'train': 0.8, 'test': 0.2}}`."
        )
    shares = [
        checks.positive_number(f"fractions['{split}']", share) for split, share in fractions.items()
    ]
    if not math.isclose(sum(shares), 1.0, rel_tol=1e-6):
        raise ValueError(f"`fractions` must add up to 1, received {dict(fractions)}.")
    return np.array(shares)


def _one_group_a_row(groups: Any) -> np.ndarray:
    rows = np.asarray(groups)
    if rows.ndim != 1:
        raise ValueError(
            f"`groups` must hold one group a row, received an array of shape {rows.shape}. Join "
            "several keys into one: `[f'{site}/{subject}' ...]`."
        )
    # Beside strings an array holds NaN as the string "nan".
    given = groups if isinstance(groups, list | tuple) else rows.tolist()
    without = [row for row, group in enumerate(given) if _is_missing(group)]
    if without:
        raise ValueError(
            f"`groups` must hold a group for every row, received {given[without[0]]} in row "
            f"{without[0]}. Leave such rows out, or make each a group of its own."
        )
    return rows.astype(str) if rows.dtype == object else rows


def _nonnegative(seed: Any) -> int | None:
    checked = checks.seed("seed", seed)
    return None if checked is None else checked % 2**64


def _is_missing(group: Any) -> bool:
    try:
        return group is None or bool(operator.ne(group, group))  # NaN is unlike itself
    except TypeError:  # what NA of pandas is like is not available either
        return True
