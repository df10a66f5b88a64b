"""Random numbers that are the same however a step is executed."""

from typing import Any

import tensorflow as tf


def uniform(size: Any, seed_generator: Any) -> Any:
    """Draws float32 numbers from 0 up to 1, the same with and without XLA.

    The generators of TensorFlow are other ones under XLA, so these are hashes of the position
    and the state of the generator: SplitMix64, of whose 64 bits two numbers take 24 each.

    Args:
        size: Integer or integer tensor, how many.
        seed_generator: `keras.random.SeedGenerator`, which this moves on.

    Reference:
        Steele, Lea, Flood 2014, Fast splittable pseudorandom number generators, figure 17, with
        the constants of Vigna, https://prng.di.unimi.it/splitmix64.c.
    """
    seed, count = tf.unstack(tf.cast(seed_generator.next(), tf.int64))
    key = _mixed(_mixed(seed) + count)
    bits = _mixed(_counted(size, key))
    # 24 bits are what a float32 below 1 holds.
    halves = [_shifted(bits, 40), tf.bitwise.bitwise_and(bits, 2**24 - 1)]
    numbers = tf.concat([tf.cast(half, tf.float32) for half in halves], axis=1)
    return tf.reshape(numbers, [-1])[:size] * 2.0**-24


def _signed(bits: int) -> int:
    """Returns the lowest 64 bits as an int64 with the same bits."""
    bits %= 2**64
    return bits - 2**64 if bits >= 2**63 else bits


# Products leave 64 bits, and their upper bits are cut off.
_INCREMENT = 0x9E3779B97F4A7C15
_FACTORS = ((30, _signed(0xBF58476D1CE4E5B9)), (27, _signed(0x94D049BB133111EB)))
_LINE = 512


def _counted(size: Any, key: Any) -> Any:
    """Returns the key plus 0, 1, 2, ... increments, in lines: half of `size` or more.

    Numbers that do not depend on the key TensorFlow would work out, and keep for every use: twice
    the memory of a gradient. These depend on it but for one line.
    """
    lines = (tf.cast(size, tf.int64) + 2 * _LINE - 1) // (2 * _LINE)
    starts = key + _signed(_LINE * _INCREMENT) * tf.range(lines)
    return starts[:, None] + _signed(_INCREMENT) * tf.range(_LINE, dtype=tf.int64)


def _mixed(values: Any) -> Any:
    """Returns 64 bits, each of which depends on all 64 bits of a value."""
    for shift, factor in _FACTORS:
        values = tf.bitwise.bitwise_xor(values, _shifted(values, shift)) * factor
    return tf.bitwise.bitwise_xor(values, _shifted(values, 31))


def _shifted(values: Any, bits: int) -> Any:
    """Shifts bits to the right and zeros after them, which TensorFlow does without a sign."""
    unsigned = tf.bitcast(values, tf.uint64)
    shifted = tf.bitwise.right_shift(unsigned, tf.constant(bits, tf.uint64))
    return tf.bitcast(shifted, tf.int64)
