"""Random numbers that are the same however a step is executed."""

from typing import Any

import tensorflow as tf


def uniform(size: Any, seed_generator: Any) -> Any:
    """Draws float32 numbers from 0 up to 1, the same with and without XLA.

    The generators of TensorFlow are other ones under XLA, so these are hashes of the position
    and the state of the generator.

    Args:
        size: Integer or integer tensor, how many.
        seed_generator: `keras.random.SeedGenerator`, which this moves on.

    Reference:
        Wellons 2018, Prospecting for hash functions, https://nullprogram.com/blog/2018/07/31/.
    """
    seed, count = tf.unstack(tf.bitwise.bitwise_and(tf.cast(seed_generator.next(), tf.int64), _LOW))
    key = _mixed(tf.bitwise.bitwise_xor(seed, _mixed(count)))
    bits = _mixed(tf.bitwise.bitwise_xor(_mixed(_positions(size, count)), key))
    # 24 bits are what a float32 below 1 holds.
    return tf.cast(tf.bitwise.right_shift(bits, _shift(8)), tf.float32) * 2.0**-24


_LOW = 0xFFFFFFFF
_LINE = 4096


def _positions(size: Any, number: Any) -> Any:
    """Returns 0, 1, 2, ... as int64, not known before `number` is.

    Of what it knows TensorFlow works out all that follows, and keeps it for every use: twice the
    memory of a gradient. (XLA takes no range whose start is unknown.)
    """
    size = tf.cast(size, tf.int64)
    starts = _LINE * tf.range((size + _LINE - 1) // _LINE) + tf.bitwise.bitwise_and(number, 0)
    return tf.reshape(starts[:, None] + tf.range(_LINE, dtype=tf.int64), [-1])[:size]


def _mixed(values: Any) -> Any:
    """Returns 32 bits, as int64, each of which depends on all 32 bits of a value."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        values = tf.bitwise.bitwise_xor(values, tf.bitwise.right_shift(values, _shift(shift)))
        values = tf.bitwise.bitwise_and(values * factor, _LOW)
    return tf.bitwise.bitwise_xor(values, tf.bitwise.right_shift(values, _shift(16)))


def _shift(bits: int) -> Any:
    return tf.constant(bits, tf.int64)
