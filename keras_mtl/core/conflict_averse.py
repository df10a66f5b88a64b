"""The conflict-averse direction, found inside the graph by an exact active-set search."""

from functools import partial
from typing import Any, NamedTuple

import tensorflow as tf

from keras_mtl.core import solvers


class _Problem(NamedTuple):
    """Minimise (b'x + c sqrt(x'Cx)) / s'x over x >= 0, in units of |g_0|.

    It is the objective of the paper in x_i = w_i |g_i|, which only directions of x decide.
    """

    cosines: Any  # float64 (K, K), C
    mean: Any  # float64 (K,), b, the cosines between gradients and their mean g_0
    shortness: Any  # float64 (K,), s, the shortest gradient over each
    radius: float  # c
    jitter: float  # more than rounding can move an eigenvalue of C
    nearest: Any  # float64 (K,), the x with which g_0 + x opposes no task and |x|_C is smallest


class _Face(NamedTuple):
    """The minimiser over the combinations of the gradients in a support, of any sign."""

    exists: Any  # boolean (); without it the objective falls forever along `point`
    touches: Any  # boolean (); the combinations hold 0, and nothing better is to be had
    point: Any  # float64 (K,), x up to its length
    level: Any  # float64 (), the gain g_i . d times s_i, the same for all in the support


class _Search(NamedTuple):
    """Where the active-set search stands."""

    point: Any  # float64 (K,), x >= 0
    support: Any  # boolean (K,), the entries that may be positive
    banned: Any  # boolean (K,), entries that entered and had to leave at once
    running: Any  # boolean ()


def conflict_averse_weights(gramian: Any, active: Any, radius: float) -> Any:
    """Finds the direction within c |g_0| of the mean g_0 whose least gain g_i . d is greatest.

    It is g_0 + c |g_0| g_w / |g_w|, where w on the simplex minimises g_w . g_0 + c |g_0| |g_w|.
    That is convex, and its minimum on the affine hull of some gradients is known in closed form.
    Block pivoting guesses the support, as in `solvers.nonnegative_qp`; where 8 rounds do not find
    it, one gradient enters or leaves at a time, as in Lawson-Hanson: at most 4K + 20 steps, in
    float64 inside. Where the least gain is 0 because a convex combination of the
    gradients is 0, many directions are best and the nearest to g_0 is returned.

    Args:
        gramian: Float tensor of shape `(K, K)`, inner products of the gradients.
        active: Boolean or float tensor of shape `(K,)`; `False` or 0 leaves a task out, and so
            does a zero gradient.
        radius: Float >= 0, c.

    Returns:
        A tensor of shape `(K,)` in the dtype of `gramian`, the weights of the gradients in the
        direction; all 0 if no task is left.
    """
    gramian = tf.convert_to_tensor(gramian)
    values = tf.cast(gramian, tf.float64)
    present = (tf.cast(active, tf.float64) > 0) & (tf.linalg.diag_part(values) > 0)
    values = tf.where(present[:, None] & present[None, :], values, 0)
    num_present = tf.reduce_sum(tf.cast(present, tf.float64))
    shares = tf.where(present, 1 / tf.maximum(num_present, 1), 0)
    if radius > 0:
        shares += _additions(values, shares, present, radius, gramian.dtype)
    return tf.cast(shares, gramian.dtype)


def _additions(values: Any, shares: Any, present: Any, radius: float, dtype: tf.DType) -> Any:
    """Returns what the direction adds to the weights of the mean, `shares`."""
    lengths = tf.sqrt(tf.where(present, tf.linalg.diag_part(values), 1))
    products = tf.linalg.matvec(values, shares)
    length = tf.sqrt(tf.maximum(tf.tensordot(shares, products, 1), 0))
    # In the dtype given, which tells the search how far to trust the Gramian.
    given = tf.cast(values, dtype)
    nearest = solvers.nonnegative_qp(given, -products)
    problem = _Problem(
        cosines=values / (lengths[:, None] * lengths),
        mean=tf.clip_by_value(tf.math.divide_no_nan(products, lengths * length), -1, 1),
        shortness=_shortness(lengths, present),
        radius=radius,
        jitter=solvers.jitter_for(given),
        nearest=tf.math.divide_no_nan(tf.cast(nearest, tf.float64) * lengths, length),
    )
    return _solve(problem, present) * length / lengths


def _shortness(lengths: Any, present: Any) -> Any:
    """Returns the shortest length over each, 0 for tasks left out."""
    longest = tf.reduce_max(tf.where(present, lengths, 0))
    shortest = tf.reduce_min(tf.where(present, lengths, longest))
    return tf.where(present, shortest / lengths, 0)


def _solve(problem: _Problem, present: Any) -> Any:
    """Returns the x with which g_0 + x is the direction, 0 for tasks left out."""
    opposing = problem.nearest > 0
    guess = tf.where(tf.reduce_any(opposing), opposing, present)
    nowhere = _at(tf.zeros_like(problem.mean), guess)
    pivot = partial(_pivot, problem, present=present)
    guess = solvers.run_search(pivot, nowhere, solvers.MOST_PIVOTS)
    found = tf.reduce_any(guess.point > 0)
    start = _at(_start(problem, present), present)
    start = _Search(*(tf.where(found, *pair) for pair in zip(guess, start, strict=True)))
    step = partial(_step, problem, present=present)
    end = solvers.run_search(step, start, 4 * present.shape[0] + 20)
    square = _square(problem, end.point)
    resolved = square > 0.1 * problem.jitter * tf.reduce_sum(end.point**2)
    scale = problem.radius * tf.math.rsqrt(tf.where(resolved, square, 1))
    return tf.where(resolved, scale * end.point, problem.nearest)


def _at(point: Any, support: Any) -> _Search:
    """Returns a search that begins at a point."""
    support = tf.where(tf.reduce_any(point > 0), point > 0, support)
    return _Search(point, support, tf.zeros_like(support), tf.reduce_any(support))


def _pivot(problem: _Problem, search: _Search, present: Any) -> _Search:
    """Lets all entries change sides that are on the wrong side; a point is there at the end."""
    face = _face(problem, search.support)
    outside = present & ~search.support & (_excess(problem, face, face.point) < 0)
    wrong = outside | (search.support & (face.point <= 0))
    right = face.exists & ~face.touches & ~tf.reduce_any(wrong)
    running = face.exists & ~face.touches & ~right
    support = tf.math.logical_xor(search.support, wrong & running)
    running &= tf.reduce_any(support)
    return _Search(tf.where(right, face.point, 0), support, search.banned, running)


def _square(problem: _Problem, point: Any) -> Any:
    """Returns |x|_C^2."""
    return tf.tensordot(point, tf.linalg.matvec(problem.cosines, point), 1)


def _start(problem: _Problem, present: Any) -> Any:
    """Starts where nobody would be opposed, or at the best single gradient."""
    alone = tf.math.divide_no_nan(problem.mean + problem.radius, problem.shortness)
    best = tf.argmin(tf.where(present, alone, float("inf")))
    single = tf.where(present, tf.one_hot(best, present.shape[0], dtype=tf.float64), 0)
    return tf.where(_square(problem, problem.nearest) > 0, problem.nearest, single)


def _step(problem: _Problem, search: _Search, present: Any) -> _Search:
    """Goes to the best point on the support, or as far as the bounds allow."""
    face = _face(problem, search.support)
    # Only directions count: with s'x of the target, the straight way is the one of w.
    sums = [tf.tensordot(problem.shortness, x, 1) for x in (face.point, search.point)]
    point = tf.where(face.exists, tf.math.divide_no_nan(*sums), 1) * search.point
    way = tf.where(face.exists, face.point - point, face.point)
    blocking = search.support & tf.where(face.exists, face.point <= 0, face.point < 0)
    fraction = tf.math.divide_no_nan(point, tf.where(blocking, -way, 1))
    share = tf.reduce_min(tf.where(blocking, fraction, float("inf")))
    leaving = blocking & (fraction <= share)
    blocked = tf.reduce_any(blocking)
    shrunk = _Search(
        tf.where(~leaving, tf.maximum(point + tf.where(blocked, share, 0) * way, 0), 0),
        search.support & ~leaving,
        search.banned | (leaving & (share <= 0)),
        tf.constant(True),
    )
    grown = _grow(problem, search, face, present)
    return _Search(*(tf.where(blocked, *pair) for pair in zip(shrunk, grown, strict=True)))


def _face(problem: _Problem, support: Any) -> _Face:
    """Solves C x + b = t s on the support for the t with |x|_C = c."""
    both = _solutions(problem, support)
    towards, back = both[:, 0], both[:, 1]  # C^-1 s and C^-1 b
    slope = tf.tensordot(problem.shortness, towards, 1)
    height = tf.tensordot(problem.shortness, back, 1)
    # g_0 without its part along the differences of the gradients stays as it is.
    back -= height / slope * towards
    towards *= tf.math.rsqrt(slope)
    free = problem.radius**2 - tf.tensordot(problem.mean, back, 1)
    exists = (free > 0) | (tf.reduce_sum(tf.cast(support, tf.int32)) == 1)
    free = tf.sqrt(tf.maximum(free, 0))
    # |C^-1 s|_C, here 1, is lost where s is not in the range of C.
    touches = (_square(problem, towards) < 0.9) & exists
    touches &= _square(problem, problem.nearest) <= problem.radius**2
    point = tf.where(touches, towards, free * towards - back)
    level = (height + free * tf.sqrt(slope)) / slope
    return _Face(exists, touches, tf.where(exists, point, -back), level)


def _solutions(problem: _Problem, support: Any) -> Any:
    """Returns C^-1 s and C^-1 b on the support, `(K, 2)`, bounded where C is singular."""
    identity = tf.eye(support.shape[0], dtype=tf.float64)
    matrix = tf.where(support[:, None] & support[None, :], problem.cosines, identity)
    factor = tf.linalg.cholesky(matrix + problem.jitter * identity)
    given = tf.stack([problem.shortness, problem.mean], axis=1)
    residual = given = tf.where(support[:, None], given, 0)
    found = tf.zeros_like(given)
    # Each round leaves jitter / (jitter + l) of the error along eigenvectors of eigenvalue l.
    for _ in range(4):
        found += tf.linalg.cholesky_solve(factor, residual)
        residual = given - tf.matmul(matrix, found)
    return found


def _grow(problem: _Problem, search: _Search, face: _Face, present: Any) -> _Search:
    """Arrives at the best point on the support and admits the task that gains least."""
    arrived = tf.where(face.exists, face.point, search.point)
    # An entry refused for rounding is tried again only after the point has moved.
    moved = tf.reduce_any(arrived != search.point)
    banned = search.banned & ~moved
    excess = _excess(problem, face, arrived)
    excess = tf.where(present & ~search.support & ~banned, excess, 0)
    running = (tf.reduce_min(excess) < 0) & face.exists & ~face.touches
    entering = tf.one_hot(tf.argmin(excess), excess.shape[0], True, False) & running
    # Where 0 is reached, no x has the length c: what is left is to oppose nobody.
    point = tf.where(face.touches, tf.zeros_like(arrived), arrived)
    return _Search(point, search.support | entering, banned, running)


def _excess(problem: _Problem, face: _Face, point: Any) -> Any:
    """Returns how much more each task gains than the support; below 0 it should enter."""
    asked = face.level * problem.shortness
    excess = problem.mean + tf.linalg.matvec(problem.cosines, point) - asked
    # An excess below the rounding of its own terms is none.
    return excess + 0.01 * problem.jitter * (1 + tf.abs(asked))
