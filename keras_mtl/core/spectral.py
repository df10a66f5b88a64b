"""Powers of Gramians by their eigenvalues, inside the graph; singular ones on their range."""

from typing import Any, NamedTuple

import tensorflow as tf

# Eigenvalues below this part of the largest are 0: twenty times and more what rounding makes of
# one in a Gramian of cosines, of up to a million parameters in its own dtype.
_ROUNDING = {tf.float32: 1e-5, tf.float64: 1e-14}
# A vector of which less than this part lies in the range lies outside it.
_OUTSIDE = {tf.float32: 1e-4, tf.float64: 1e-10}
# The definition of what is 0 in a Gramian, whose tasks may differ in length by 1e7.
_SMALLEST = 1e-14
# What rounding leaves beside the diagonal of a diagonalised matrix, over its largest entry, is
# less than this times 8 + K.
_DIAGONAL = 2e-16


class Spectrum(NamedTuple):
    """A symmetric, positive semidefinite matrix on its range."""

    values: Any  # float64 (K,), the eigenvalues; 1 where they are 0
    vectors: Any  # float64 (K, K), in columns; 0 where the eigenvalue is 0
    used: Any  # boolean (K,), which eigenvalues are not 0
    outside: float  # see _OUTSIDE

    @property
    def rank(self) -> Any:
        """The number of eigenvalues that are not 0."""
        return tf.reduce_sum(tf.cast(self.used, tf.int32))

    @property
    def smallest(self) -> Any:
        """The smallest eigenvalue that is not 0, or 1 if all are."""
        return tf.reduce_min(tf.where(self.used, self.values, tf.reduce_max(self.values)))

    def power(self, exponent: float, vector: Any) -> Any:
        """Returns the matrix to a power, times a vector; with -1 its pseudo-inverse times it.

        A vector outside the range gives 0, where rounding would give noise.

        Args:
            exponent: Float. 0 projects on the range.
            vector: Float tensor of shape `(K,)`.
        """
        vector = tf.cast(vector, tf.float64)
        parts = tf.linalg.matvec(self.vectors, vector, transpose_a=True)
        outside = tf.norm(parts) <= self.outside * tf.norm(vector)
        parts = tf.where(outside, tf.zeros_like(parts), parts)
        return tf.linalg.matvec(self.vectors, parts * self.values**exponent)


class Gradients(NamedTuple):
    """What a Gramian says of the gradients, in float64; tasks that are absent or 0 have 0."""

    lengths: Any  # (K,), in units of the longest
    cosines: Any  # (K, K)
    dtype: tf.DType  # of the Gramian

    @property
    def inverse_lengths(self) -> Any:
        """1 / length, or 0, `(K,)`."""
        return tf.math.divide_no_nan(tf.ones_like(self.lengths), self.lengths)


def gradients_of(gramian: Any, active: Any) -> Gradients:
    """Reads lengths and cosines off a Gramian.

    Args:
        gramian: Float tensor of shape `(K, K)`, inner products of the gradients.
        active: Boolean or float tensor of shape `(K,)`; `False` or 0 leaves a task out.
    """
    gramian = tf.convert_to_tensor(gramian)
    present = tf.cast(active, tf.float64) > 0
    values = tf.where(present[:, None] & present[None, :], tf.cast(gramian, tf.float64), 0)
    lengths = tf.sqrt(tf.maximum(tf.linalg.diag_part(values), 0))
    inverse = tf.math.divide_no_nan(tf.ones_like(lengths), lengths)
    # A cosine is what rounding leaves of it within -1 and 1.
    cosines = tf.clip_by_value(inverse[:, None] * values * inverse, -1, 1)
    lengths = tf.math.divide_no_nan(lengths, tf.reduce_max(lengths))
    return Gradients(lengths, cosines, gramian.dtype)


def cosine_spectrum(gradients: Gradients) -> Spectrum:
    """Returns the spectrum of the cosines."""
    values, vectors = _eigh(gradients.cosines)
    positive = values > _ROUNDING[gradients.dtype] * tf.reduce_max(values)
    return _on_range(values, vectors, positive, gradients)


def gramian_spectrum(gradients: Gradients) -> Spectrum:
    """Returns the spectrum of the Gramian, in units of the longest gradient.

    Its rank is that of the cosines: there rounding is told from what is small because a gradient
    is short.
    """
    rank = cosine_spectrum(gradients).rank
    lengths = gradients.lengths
    values, vectors = _eigh(lengths[:, None] * gradients.cosines * lengths)
    place = tf.argsort(tf.argsort(values))
    largest = place >= values.shape[0] - rank
    positive = values > _SMALLEST * tf.reduce_max(values)
    return _on_range(values, vectors, largest & positive, gradients)


def pseudo_inverse_of_lengths(gradients: Gradients) -> Any:
    """Returns pinv(G) n for the lengths n, up to a factor, `(K,)`."""
    cosines = cosine_spectrum(gradients)
    inverse = gradients.inverse_lengths
    # With D = diag(n) and cosines C, G = D C D: a full rank needs no eigenvalues of G, which
    # would lose what is short beside what is long.
    independent = tf.equal(cosines.rank, tf.math.count_nonzero(inverse, dtype=tf.int32))
    # Not 1 for tasks left out, with which eigenvectors of small eigenvalues may be mixed.
    ones = tf.where(inverse > 0, tf.ones_like(inverse), 0)
    direct = tf.where(inverse > 0, inverse * cosines.power(-1, ones), 0)
    on_range = gramian_spectrum(gradients).power(-1, gradients.lengths)
    return tf.where(independent, direct, on_range)


def conflict_free_weights(gramian: Any, active: Any, shares: Any) -> Any:
    """Finds the weights of ConFIG: cosines with all gradients in proportion to `shares`.

    Args:
        gramian: Float tensor of shape `(K, K)`, inner products of the gradients.
        active: Boolean or float tensor of shape `(K,)`; `False` or 0 leaves a task out.
        shares: Float tensor of shape `(K,)`.

    Returns:
        A float64 tensor of shape `(K,)`; 0 for tasks that are absent or whose gradient is 0.
    """
    gradients = gradients_of(gramian, active)
    cosines = cosine_spectrum(gradients)
    shares = tf.where(gradients.lengths > 0, tf.cast(shares, tf.float64), 0)
    # The direction pinv(U) p = U'a with a = pinv(C) p has a'Ca = p'a as its squared length, and
    # Ca as its inner products with the unit gradients.
    unit_weights = cosines.power(-1, shares)
    projections = tf.tensordot(gradients.lengths, cosines.power(0, shares), axes=1)
    squared = tf.tensordot(shares, unit_weights, axes=1)
    factor = tf.math.divide_no_nan(projections, squared)
    return factor * gradients.inverse_lengths * unit_weights


def _eigh(matrix: Any) -> tuple[Any, Any]:
    """Returns eigenvalues, in no order, and eigenvectors to float64 accuracy, by XLA too.

    XLA leaves up to 1e-6 of the matrix beside the diagonal, too much where eigenvalues differ
    more than that. Rounds of Jacobi rotations, each of disjoint pairs, take the rest away; where
    nothing is left there are none.
    """
    _, vectors = tf.linalg.eigh(matrix)
    identity = tf.eye(matrix.shape[0], dtype=tf.float64)
    # Nor are its vectors quite orthogonal. A step of Newton and Schulz squares the error.
    for _ in range(2):
        overlaps = tf.matmul(vectors, vectors, transpose_a=True)
        vectors = tf.matmul(vectors, 1.5 * identity - 0.5 * overlaps)
    partners = tf.constant(_rounds(matrix.shape[0]))

    tolerance = _DIAGONAL * (8 + matrix.shape[0])

    def unfinished(turn: Any, rotated: Any, vectors: Any) -> Any:
        del turn, vectors
        beside = tf.linalg.set_diag(rotated, tf.zeros_like(rotated[0]))
        return tf.reduce_max(tf.abs(beside)) > tolerance * tf.reduce_max(tf.abs(rotated))

    def rotate(turn: Any, rotated: Any, vectors: Any) -> tuple[Any, Any, Any]:
        rotation = _rotation(rotated, partners[turn % partners.shape[0]])
        vectors = tf.matmul(vectors, rotation)
        rotated = tf.matmul(rotation, tf.matmul(rotated, rotation), transpose_a=True)
        return turn + 1, rotated, vectors

    rotated = tf.matmul(vectors, tf.matmul(matrix, vectors), transpose_a=True)
    _, rotated, vectors = tf.while_loop(
        unfinished, rotate, (0, rotated, vectors), maximum_iterations=4 * partners.shape[0]
    )
    return tf.linalg.diag_part(rotated), vectors


def _rounds(size: int) -> list[list[int]]:
    """Returns who meets whom in each round, so that all pairs meet once; one may meet itself."""
    players = size + size % 2
    circle = list(range(players))
    rounds = []
    for _ in range(max(players - 1, 1)):
        partner = dict(zip(circle, reversed(circle), strict=True))
        rounds.append([partner[i] if partner[i] < size else i for i in range(size)])
        circle = [circle[0], circle[-1], *circle[1:-1]]
    return rounds


def _rotation(matrix: Any, partner: Any) -> Any:
    """Returns the rotation that makes entry (i, partner of i) 0 for every i."""
    index = tf.range(matrix.shape[0])
    pairs = tf.one_hot(partner, matrix.shape[0], dtype=tf.float64)
    diagonal = tf.linalg.diag_part(matrix)
    beside = tf.reduce_sum(matrix * pairs, axis=1)
    # t = tan(angle) is the smaller root of t^2 + 2 tau t - 1, of opposite signs for the two.
    tau = tf.math.divide_no_nan(tf.gather(diagonal, partner) - diagonal, 2 * beside)
    first = tf.cast(tf.sign(partner - index), tf.float64)
    tangent = tf.where(tau == 0, first, tf.sign(tau)) / (tf.abs(tau) + tf.sqrt(1 + tau**2))
    tangent = tf.where((beside == 0) | (partner == index), tf.zeros_like(tau), tangent)
    cosine = tf.math.rsqrt(1 + tangent**2)
    return tf.linalg.diag(cosine) + (tangent * cosine)[:, None] * pairs


def _on_range(values: Any, vectors: Any, used: Any, gradients: Gradients) -> Spectrum:
    used &= values > 0  # without any task all are 0, and so is the largest
    vectors = tf.where(used, vectors, tf.zeros_like(vectors))
    return Spectrum(tf.where(used, values, 1), vectors, used, _OUTSIDE[gradients.dtype])
