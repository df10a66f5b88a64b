"""Small quadratic programs solved inside the graph, exactly and in a bounded number of steps."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import tensorflow as tf

MOST_PIVOTS = 8


class _Problem(NamedTuple):
    """Minimise 0.5 x'Qx - b'x over x >= 0, in units in which the diagonal of Q is 1 (or 0)."""

    matrix: Any  # float64 (K, K)
    linear: Any  # float64 (..., K)
    jitter: float  # more than rounding can move an eigenvalue of the matrix


class _Search(NamedTuple):
    """Where the active-set search stands; `running` has length 1 on the last axis."""

    point: Any  # float64 (..., K), feasible
    support: Any  # boolean (..., K), the entries that may be positive
    banned: Any  # boolean (..., K), entries that entered and had to leave at once
    running: Any  # boolean (..., 1)


def nonnegative_qp(matrix: Any, linear: Any) -> Any:
    """Minimises 0.5 u'Qu - b'u over u >= 0.

    Block pivoting guesses the support: all entries on the wrong side of it change sides at once,
    until none is, which takes few rounds whatever K is. Where 8 do not suffice, as Q may be
    singular, Lawson-Hanson begins anew: one entry enters the support at a time, and the best
    point on it comes from a Cholesky factor, at most 3K + 10 times. Both end at one and the same
    test. It works in float64 inside. Where Q is singular, one of the minimisers is returned; the
    problem must be bounded below (b in the range of Q is enough). Entries with Q_ii = 0 stay 0.

    Args:
        matrix: Float tensor of shape `(K, K)`, Q, symmetric and positive semidefinite; it may
            be slightly indefinite from rounding in its own dtype.
        linear: Float tensor of shape `(K,)`, b, or `(..., K)` for several problems at once.

    Returns:
        A tensor u of the shape of `linear` and the dtype of `matrix`, finite and >= 0.

    Reference:
        Lawson, Hanson 1974, Solving least squares problems, chapter 23. Kim, Park 2011, Fast
        nonnegative matrix factorization: an active-set-like method and comparisons, section 3,
        https://doi.org/10.1137/110821172, for block pivoting.
    """
    matrix = tf.convert_to_tensor(matrix)
    solution = _minimize(
        tf.cast(matrix, tf.float64), tf.cast(linear, tf.float64), jitter_for(matrix)
    )
    return tf.cast(solution, matrix.dtype)


def min_norm_weights(gramian: Any, active: Any) -> Any:
    """Finds the shortest vector in the convex hull of the active gradients.

    The weights w are on the simplex and minimise w'Gw. Where several do (duplicate gradients,
    more tasks than parameters) one of them is returned; they give the same vector. The
    gradient 0 of an active task is itself the shortest vector and gets all the weight.

    Args:
        gramian: Float tensor of shape `(K, K)`, inner products of the gradients.
        active: Boolean or float tensor of shape `(K,)`; `False` or 0 leaves a task out.

    Returns:
        A tensor w of shape `(K,)` in the dtype of `gramian`; all 0 if no task is active.
    """
    gramian = tf.convert_to_tensor(gramian)
    present = tf.cast(active, tf.float64) > 0
    pairs = present[:, None] & present[None, :]
    # One unit for all: the shortest gradient that is not zero gets length 1.
    values = tf.where(pairs, tf.cast(gramian, tf.float64), 0)
    lengths = tf.linalg.diag_part(values)
    unit = tf.reduce_min(tf.where(lengths > 0, lengths, tf.reduce_max(lengths)))
    values /= tf.where(unit > 0, unit, 1)
    # With Q = G + 11' and b = 1, Gu = (1 - sum(u)) 1 on the support: the optimality condition
    # of w = u / sum(u) on the simplex. The unit keeps sum(u) in [1/2, 1].
    matrix = tf.where(pairs, values + 1, tf.eye(values.shape[0], dtype=tf.float64))
    linear = tf.where(present, tf.ones_like(lengths), -1)
    solution = _minimize(matrix, linear, jitter_for(gramian))
    # A gradient of 0 leaves to the others what is rounding: nothing.
    zero = tf.cast(present & (lengths <= 0), tf.float64)
    solution = tf.where(tf.reduce_any(zero > 0), zero, solution)
    return tf.cast(tf.math.divide_no_nan(solution, tf.reduce_sum(solution)), gramian.dtype)


def jitter_for(gramian: Any) -> float:
    """Returns more than rounding moves an eigenvalue of a Gramian with a diagonal of 1.

    In float32 with rows of 200,000 it moves one by up to 1.0e-6 for 4 tasks, 1.6e-6 for 32.
    """
    return 1e-12 if gramian.dtype == tf.float64 else 2e-6 * gramian.shape[0]


def _minimize(matrix: Any, linear: Any, jitter: float) -> Any:
    """Searches in units in which the diagonal is 1, so that scales of tasks do not matter."""
    diagonal = tf.linalg.diag_part(matrix)
    positive = diagonal > 0
    scale = tf.where(positive, tf.math.rsqrt(tf.where(positive, diagonal, 1)), 0)
    problem = _Problem(scale[:, None] * matrix * scale, scale * linear, jitter)
    guess = run_search(partial(_pivot, problem), _nowhere(linear, linear > 0), MOST_PIVOTS)
    start = _Search(
        tf.where(~guess.running, guess.point, 0),
        guess.support & ~guess.running,
        guess.banned,
        guess.running,
    )
    return scale * run_search(partial(_step, problem), start, 3 * matrix.shape[0] + 10).point


def _nowhere(linear: Any, support: Any) -> _Search:
    """Returns the point 0, from where a search begins."""
    nothing = tf.zeros_like(linear, tf.bool)
    return _Search(tf.zeros_like(linear), support, nothing, ~nothing[..., :1])


def run_search(step: Callable[[Any], Any], start: Any, most: int) -> Any:
    """Takes steps until no problem is running any more, or `most` have been taken.

    Args:
        step: Function from a search, a named tuple with a boolean tensor `running`, to the next.
        start: The search to begin with.
        most: Integer.
    """
    (end,) = tf.while_loop(
        lambda search: tf.reduce_any(search.running),
        lambda search: (step(search),),
        (start,),
        maximum_iterations=most,
    )
    return end


def _pivot(problem: _Problem, search: _Search) -> _Search:
    """Lets all entries change sides that are on the wrong side of the support."""
    target = _best_on_support(problem, search)
    descent = problem.linear - tf.linalg.matvec(problem.matrix, target)
    outside = ~search.support & (descent > _rounding(problem))
    wrong = outside | (search.support & (target <= 0))
    running = search.running & tf.reduce_any(wrong, axis=-1, keepdims=True)
    support = tf.math.logical_xor(search.support, wrong & running)
    return _Search(tf.where(search.running, target, search.point), support, search.banned, running)


def _rounding(problem: _Problem) -> Any:
    """Returns the slope that is none: that of the rounding of its own terms."""
    return 0.01 * problem.jitter * tf.reduce_max(tf.abs(problem.linear), -1, keepdims=True)


def _step(problem: _Problem, search: _Search) -> _Search:
    """Goes to the best point on the support, or as far as the bounds allow."""
    target = _best_on_support(problem, search)
    blocking = search.support & (target <= 0)
    blocked = tf.reduce_any(blocking, axis=-1, keepdims=True)
    shrunk = _shrink(search, target, blocking)
    grown = _grow(problem, search, target)
    return _Search(*(tf.where(blocked, *pair) for pair in zip(shrunk, grown, strict=True)))


def _best_on_support(problem: _Problem, search: _Search) -> Any:
    """Returns the minimiser, of any sign, among the points that are 0 off the support."""
    inside = search.support[..., :, None] & search.support[..., None, :]
    identity = tf.eye(problem.matrix.shape[0], dtype=tf.float64)
    matrix = tf.where(inside, problem.matrix, identity)
    linear = residual = tf.where(search.support, problem.linear, 0)
    factor = tf.linalg.cholesky(matrix + problem.jitter * identity)
    target = tf.zeros_like(linear)
    # A round leaves jitter / (jitter + l) of the error along an eigenvector with eigenvalue l:
    # exact where l is large, and bounded where l is only rounding.
    for _ in range(4):
        target += tf.linalg.cholesky_solve(factor, residual[..., None])[..., 0]
        residual = linear - tf.linalg.matvec(matrix, target)
    # Only a matrix far from semidefinite has no factor: then the search stays where it is.
    found = tf.reduce_all(tf.math.is_finite(target), axis=-1, keepdims=True)
    return tf.where(found, target, search.point)


def _grow(problem: _Problem, search: _Search, target: Any) -> _Search:
    """Arrives at `target` and admits the entry along which the objective falls fastest."""
    # An entry refused for rounding is tried again only after the point has moved.
    moved = tf.reduce_any(target != search.point, axis=-1, keepdims=True)
    banned = search.banned & ~moved
    descent = problem.linear - tf.linalg.matvec(problem.matrix, target)
    descent = tf.where(~(search.support | banned), descent, 0)
    steepest = tf.reduce_max(descent, axis=-1, keepdims=True)
    running = steepest > _rounding(problem)
    entering = tf.one_hot(tf.argmax(descent, axis=-1), descent.shape[-1], True, False)
    return _Search(target, search.support | (entering & running), banned, running)


def _shrink(search: _Search, target: Any, blocking: Any) -> _Search:
    """Goes towards `target` until the first entries reach 0, and takes them off the support."""
    way = tf.where(blocking, search.point - target, 1)
    fraction = tf.where(blocking, tf.math.divide_no_nan(search.point, way), 1)
    share = tf.reduce_min(fraction, axis=-1, keepdims=True)
    leaving = blocking & (fraction <= share)
    point = search.point + share * (target - search.point)
    return _Search(
        tf.where(~leaving, point, 0),
        search.support & ~leaving,
        search.banned | (leaving & (share <= 0)),
        tf.ones_like(search.running),
    )
