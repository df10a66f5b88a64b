"""Exact k-means of numbers on a line, inside the graph."""

from typing import Any

from keras import ops


def group_means(values: Any, active: Any, num_groups: int) -> Any:
    """Replaces each number by the mean of its group in the best partition.

    The partition into at most `num_groups` groups has the smallest sum of squared distances to
    the groups' means. On a line its groups are runs of the sorted numbers, so a dynamic program
    over the ends of runs finds it exactly, with n^2 costs for n numbers and no start values.

    Args:
        values: Float tensor of shape `(n,)`, n static; any order, finite where active.
        active: Boolean or float tensor of shape `(n,)`; `False` or 0 leaves a number out.
        num_groups: Integer >= 1; fewer active numbers than that are groups of their own.

    Returns:
        A tensor of the shape and dtype of `values`, 0 for numbers left out.

    Reference:
        Wang, Song 2011, Ckmeans.1d.dp: optimal k-means clustering in one dimension by dynamic
        programming, R Journal 3(2), 29-33, https://doi.org/10.32614/RJ-2011-015.
    """
    values = ops.convert_to_tensor(values)
    present = ops.cast(active, values.dtype) > 0
    # The numbers left out come last, as points of weight 0, and cost nothing in any run.
    order = ops.argsort(ops.where(present, values, float("inf")))
    weights = ops.take(ops.cast(present, values.dtype), order)
    points = ops.where(weights > 0, ops.take(ops.where(present, values, 0.0), order), 0.0)
    member = _membership(_run_costs(points, weights), num_groups, values.dtype) * weights
    counts = ops.sum(member, axis=1, keepdims=True)
    means = ops.sum(member * points, axis=1, keepdims=True) / ops.maximum(counts, 1.0)
    return ops.take(ops.sum(member * means, axis=0), ops.argsort(order))


def _run_costs(points: Any, weights: Any) -> Any:
    """Returns the cost of the run of sorted points i to j - 1 at [i, j]; infinite for j < i."""
    size = points.shape[0]
    # The cost of a run is the sum over its pairs of (x - y)^2 / number of points: sums of
    # positive terms only, exact for groups of any scale, unlike differences of prefix sums.
    squares = ops.triu(ops.square(points[:, None] - points[None, :]), k=1)
    squares *= weights[:, None] * weights[None, :]
    with_later = ops.flip(ops.cumsum(ops.flip(squares, axis=0), axis=0), axis=0)
    pairs = ops.pad(ops.cumsum(with_later, axis=1), ((0, 1), (1, 0)))
    ends = ops.pad(ops.cumsum(weights), ((1, 0),))
    counts = ops.maximum(ends[None, :] - ends[:, None], 1.0)
    backwards = ops.tril(ops.ones((size + 1, size + 1), dtype="bool"), k=-1)
    return ops.where(backwards, float("inf"), pairs / counts)


def _membership(costs: Any, num_groups: int, dtype: Any) -> Any:
    """Returns 1 at [g, l] where the best partition has the sorted point l in group g, else 0."""
    size = costs.shape[0] - 1
    # best[j] is the cost of the first j points in the groups so far; an empty run is allowed.
    best, starts = costs[0], []
    for _ in range(min(num_groups, size) - 1):
        candidates = best[:, None] + costs
        starts.append(ops.argmin(candidates, axis=0))
        best = ops.min(candidates, axis=0)
    # Backwards: the last run ends at the last point, each other one where the next begins.
    end, index, rows = ops.full((), size, dtype="int32"), ops.arange(size, dtype="int32"), []
    for start_of in [*reversed(starts), ops.zeros((size + 1,), dtype="int32")]:
        start = ops.cast(ops.take(start_of, end), "int32")
        rows.append(ops.cast((index >= start) & (index < end), dtype))
        end = start
    return ops.stack(rows)
