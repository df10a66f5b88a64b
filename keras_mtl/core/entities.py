"""Entities in sequences of tags, read as the CoNLL shared tasks do and counted in the graph.

A tag is `O`, or a prefix and a type: `B-LOC` begins an entity, `I-LOC` continues it, `E-LOC` (or
`L-LOC`) is its last token, `S-LOC` (or `U-LOC`) an entity of one token.
"""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_mtl.core import checks

# Prefixes after O by scheme, in the order in which tags without names are numbered.
SCHEMES = {"BIO": "BI", "BIOES": "BIES", "BILOU": "BILU"}
# BILOU says "last" for the end and "unit" for a single one.
_SAME = {"L": "E", "U": "S"}


class Reading(NamedTuple):
    """What each tag is, as arrays; the id after the last tag stands for "no token".

    Args:
        starts: Boolean array `(num_tags + 1, num_tags + 1)`: whether an entity starts at the
            second tag when it follows the first.
        inside: Boolean array `(num_tags + 1,)`: whether a tag is part of an entity.
        kinds: Integer array `(num_tags + 1,)`: the type, 0 for none.
    """

    starts: np.ndarray
    inside: np.ndarray
    kinds: np.ndarray


def default_tags(num_tags: int, scheme: str) -> list[str] | None:
    """Returns the names of tags numbered in the usual order, or `None` where none fits.

    >>> keras_mtl.core.entities.default_tags(5, "BIO")
    ['O', 'B-0', 'I-0', 'B-1', 'I-1']
    """
    prefixes = SCHEMES[scheme]
    kinds, rest = divmod(num_tags - 1, len(prefixes))
    if rest:
        return None
    return ["O", *(f"{prefix}-{kind}" for kind in range(kinds) for prefix in prefixes)]


def check_tags(tags: Any, prefixes: str, otherwise: str = "`scheme=None`") -> list[str]:
    """Returns the tags as a list, if each is `O` or one of the prefixes with a type.

    Args:
        tags: The user's value.
        prefixes: String of the letters that may begin a tag.
        otherwise: String. What to use for tags that mark no entities.
    """
    listed = isinstance(tags, Collection) and not isinstance(tags, str)
    if not listed or not all(isinstance(tag, str) for tag in tags):
        raise TypeError(f"`tags` must be a list of strings, received {checks.describe(tags)}.")
    for tag in tags:
        if tag != "O" and tag.partition("-")[0] not in tuple(prefixes):
            raise ValueError(
                f"`tags` must be 'O' or begin with one of {list(prefixes)} and '-', received "
                f"'{tag}'. Write for example '{prefixes[0]}-LOC'; for tags that mark no entities "
                f"use {otherwise}."
            )
    if len(set(tags)) < len(tags):
        twice = sorted({tag for tag in tags if list(tags).count(tag) > 1})
        raise ValueError(f"`tags` must differ, but these occur twice: {twice}.")
    return list(tags)


def reading(tags: Sequence[str]) -> Reading:
    """Returns how to read tags of these names."""
    split = [tag.partition("-") for tag in [*tags, "O"]]
    prefixes = np.array([_SAME.get(prefix, prefix) for prefix, _, _ in split])
    names = [name if prefix != "O" else None for prefix, _, name in split]
    order = {name: index for index, name in enumerate(dict.fromkeys([None, *names]))}
    kinds = np.array([order[name] for name in names], "int32")
    inside = prefixes != "O"
    # A chunk starts, by the rules of conlleval: at B and S, after O, E and S, where types differ.
    starts = np.isin(prefixes, ["B", "S"])[None, :] | np.isin(prefixes, ["O", "E", "S"])[:, None]
    starts = inside & (starts | (kinds[:, None] != kinds[None, :]))
    return Reading(starts, inside, kinds)


class _Marks(NamedTuple):
    """An entity's outline, token by token."""

    starts: Any
    inside: Any
    continues: Any
    kinds: Any


def _marks(tags: Any, by: Reading) -> _Marks:
    nothing = ops.full_like(tags[:, :1], len(by.inside) - 1)
    before = ops.concatenate([nothing, tags[:, :-1]], axis=1)
    table = ops.reshape(ops.convert_to_tensor(by.starts), (-1,))
    starts = ops.take(table, before * len(by.inside) + tags)
    inside = ops.take(ops.convert_to_tensor(by.inside), tags)
    goes_on = ops.logical_and(inside, ops.logical_not(starts))
    after = ops.concatenate([goes_on[:, 1:], ops.zeros_like(goes_on[:, :1])], axis=1)
    return _Marks(starts, inside, after, ops.take(ops.convert_to_tensor(by.kinds), tags))


def without_gaps(tags: Any, weights: Any, by: Reading) -> tuple[Any, Any]:
    """Returns tags and weights `(batch, steps)` with tokens of weight 0 taken out of each row."""
    absent = ops.equal(weights, 0.0)
    places = ops.arange(ops.shape(tags)[1], dtype="int32")
    # All keys differ, so that any sort keeps the order of the tokens.
    order = ops.argsort(ops.where(absent, places + ops.shape(tags)[1], places), axis=1)
    tags = ops.where(absent, len(by.inside) - 1, tags)
    return ops.take_along_axis(tags, order, axis=1), ops.take_along_axis(weights, order, axis=1)


def count(expected: Any, found: Any, weights: Any, by: Reading) -> tuple[Any, Any, Any]:
    """Counts entities: those right in start, end and type, those expected, those found.

    Args:
        expected: Integer tensor `(batch, steps)`, the labels.
        found: Integer tensor `(batch, steps)`, the predicted tags.
        weights: Float tensor `(batch, steps)`. Tokens of weight 0 are left out as if the row
            did not have them; an entity has the weight of its first token.
        by: `Reading` of the tags.

    Returns:
        Three float scalars.
    """
    right, _ = without_gaps(expected, weights, by)
    guess, weights = without_gaps(found, weights, by)
    right, guess = _marks(right, by), _marks(guess, by)
    differs = [ops.not_equal(*pair) for pair in zip(right, guess, strict=True)]
    wrong = ops.logical_and(right.inside, ops.any(ops.stack(differs), axis=0))
    hits = weights * ops.cast(right.starts, weights.dtype) * _flawless(right.starts, wrong)
    totals = [ops.sum(weights * ops.cast(part.starts, weights.dtype)) for part in (right, guess)]
    return (ops.sum(hits), *totals)


def _flawless(starts: Any, wrong: Any) -> Any:
    """Returns 1.0 for each token in an entity without a wrong token, else 0.0."""
    rows, steps = ops.shape(starts)
    # The tokens from one start to the next are one segment, numbered through the batch.
    segments = ops.cumsum(ops.cast(starts, "int32"), axis=1)
    segments += (steps + 1) * ops.expand_dims(ops.arange(rows, dtype="int32"), 1)
    segments = ops.reshape(segments, (-1,))
    wrong = ops.reshape(ops.cast(wrong, "float32"), (-1,))
    flaws = ops.segment_sum(wrong, segments, num_segments=rows * (steps + 1))
    return ops.reshape(ops.cast(ops.take(flaws, segments) == 0, "float32"), (rows, steps))
