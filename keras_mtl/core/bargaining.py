"""Weights on which tasks agree, found inside the graph by a damped Newton method."""

from typing import Any, NamedTuple

import tensorflow as tf

from keras_mtl.core import solvers

# Step lengths tried at once, the longest first: twice the Newton step helps where weights must
# grow by orders of magnitude, which it does by doubling them.
STEPS = (4.0, 2.0, 1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125, 1e-2, 1e-3, 1e-4)
# No entry gets nearer to 0 in one step than this share of itself.
NEAREST = 0.01
# From here on a task is far smaller than the others together.
DWARFED = 100.0


class _Game(NamedTuple):
    """Find x > 0 with (Cy)_i = r_i x_i^(-q) for y = r x; a task alone has x = 1."""

    cosines: Any  # float64 (K, K), C
    sizes: Any  # float64 (K,), r, the largest is 1
    exponent: float  # q
    jitter: float  # bounds the weights where a combination of the gradients is 0
    damping: float  # more than rounding can move an eigenvalue of C

    @property
    def smallest(self) -> float:
        """Returns an x whose second derivative is still finite."""
        return 10 ** (-300 / (self.exponent + 1))

    def slope(self, points: Any) -> Any:
        """Returns the derivatives by y at one point x or at several, `(..., K)`."""
        weights = self.sizes * points
        supply = tf.linalg.matvec(self.cosines, weights) + self.jitter**2 * weights**3
        return supply - self.sizes * tf.pow(points, -self.exponent)

    def curvature(self, point: Any) -> Any:
        """Returns the diagonal of the second derivatives by y, damped.

        That keeps the matrix definite; it shortens the steps and moves no solution.
        """
        bend = self.exponent * tf.pow(point, -self.exponent - 1)
        return 1 + self.damping + 3 * (self.jitter * self.sizes * point) ** 2 + bend


class _Search(NamedTuple):
    """Where the search stands."""

    point: Any  # float64 (K,), x
    running: Any  # boolean ()


def bargaining_weights(gramian: Any, powers: Any, exponent: float = 1.0) -> Any:
    """Finds the weights w > 0 with G w = p w^(-q).

    They minimise the convex function w'Gw / 2 - sum_i p_i f(w_i), f' = w^(-q): a Nash bargain with
    bargaining powers p for q = 1. Newton steps whose length is searched along the line need some
    six iterations and at most 60; inside it is float64. Where no weights fulfil the condition,
    since a convex combination of the gradients is 0, the weights are large and finite, and the
    direction is nearly 0.

    Args:
        gramian: Float tensor of shape `(K, K)`, inner products of the gradients.
        powers: Float tensor of shape `(K,)`, p >= 0; tasks with 0 or a zero gradient are left out.
        exponent: Float > 0, q.

    Returns:
        A tensor w of shape `(K,)` in the dtype of `gramian`, finite; 0 for tasks left out.
    """
    gramian = tf.convert_to_tensor(gramian)
    values, powers = tf.cast(gramian, tf.float64), tf.cast(powers, tf.float64)
    squares = tf.linalg.diag_part(values)
    present = (powers > 0) & (squares > 0)
    squares, powers = tf.where(present, squares, 1), tf.where(present, powers, 1)
    # What each task would get alone: G_ii w = p w^(-q).
    alone = tf.pow(powers / squares, 1 / (1 + exponent))
    sizes = tf.where(present, alone * tf.sqrt(squares), 0)
    sizes = tf.where(present, tf.math.divide_no_nan(sizes, tf.reduce_max(sizes)), 1)
    jitter = 1e-12 if gramian.dtype == tf.float64 else 1e-6
    cosines = _cosines(values, squares, present)
    game = _Game(cosines, sizes, exponent, jitter, solvers.jitter_for(gramian))
    (end,) = tf.while_loop(
        lambda search: search.running,
        lambda search: (_step(game, search),),
        (_Search(_start(game, present), tf.constant(True)),),
        maximum_iterations=60,
    )
    return tf.cast(tf.where(present, alone * end.point, 0), gramian.dtype)


def _cosines(values: Any, squares: Any, present: Any) -> Any:
    """Returns the cosines between gradients; tasks left out are orthogonal to all."""
    inverse = tf.math.rsqrt(squares)
    others = present[:, None] & present[None, :] & ~tf.eye(values.shape[0], dtype=tf.bool)
    # Rounding in the Gramian can exceed 1.
    cosines = tf.clip_by_value(inverse[:, None] * values * inverse, -1, 1)
    return tf.where(others, cosines, tf.eye(values.shape[0], dtype=tf.float64))


def _start(game: _Game, present: Any) -> Any:
    """Returns the minimiser along the ray of what the tasks would get alone."""
    sizes = tf.where(present, game.sizes, 0)
    square = tf.reduce_sum(sizes**2)
    sum_square = tf.tensordot(sizes, tf.linalg.matvec(game.cosines, sizes), 1)
    ratio = tf.math.divide_no_nan(square, tf.maximum(sum_square, 1e-4 * square))
    shared = tf.pow(ratio, 1 / (1 + game.exponent))
    # A task that is dwarfed by the others follows them or makes up for what they do to it.
    supply = shared * tf.linalg.matvec(game.cosines, sizes) / game.sizes
    follow = tf.pow(tf.maximum(supply, 1), -1 / game.exponent)
    dwarfed = tf.where(supply > 0, follow, -supply)
    start = tf.where(tf.abs(supply) > DWARFED, dwarfed, shared)
    return tf.where(present, tf.maximum(start, game.smallest), 1)


def _step(game: _Game, search: _Search) -> _Search:
    """Takes one Newton step, of the longest length that does not overshoot."""
    point = search.point
    slope = game.slope(point)
    factor = tf.linalg.cholesky(tf.linalg.set_diag(game.cosines, game.curvature(point)))
    change = -tf.linalg.cholesky_solve(factor, slope[:, None])[:, 0] / game.sizes
    # Without a factor the search ends where it is.
    change = tf.where(tf.reduce_all(tf.math.is_finite(change)), change, tf.zeros_like(change))
    length = _length(game, point, change)
    moved = tf.maximum(point + length * change, game.smallest)
    # The error is squared in each step.
    return _Search(moved, tf.reduce_max(tf.abs(change) / point) > 1e-8)


def _length(game: _Game, point: Any, change: Any) -> Any:
    """Returns the longest step at whose end the objective does not rise steeply."""
    shrinking = tf.reduce_max(-change / point)
    limit = tf.where(shrinking > 0, (1 - NEAREST) / tf.maximum(shrinking, 0.1), STEPS[0])
    lengths = tf.minimum(tf.constant(STEPS, tf.float64), limit)
    ends = tf.concat([point[None], point + lengths[:, None] * change], axis=0)
    slopes = tf.linalg.matvec(game.slope(ends), game.sizes * change)
    fits = slopes[1:] <= -0.5 * slopes[0]
    return tf.reduce_max(tf.where(fits, lengths, tf.reduce_min(lengths)))
