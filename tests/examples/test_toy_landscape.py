"""The toy problem ends where the papers of CAGrad and Nash-MTL say it does."""

import numpy as np
import pytest
import tensorflow as tf

METHODS = ("sum", "mgda", "cagrad", "nash_mtl")
# Of the five starts: two in the upper corners, one in the middle, two at the sides below.
LEFT, MIDDLE, RIGHT, LOWER_LEFT, LOWER_RIGHT = range(5)
BELOW = [MIDDLE, LOWER_LEFT, LOWER_RIGHT]


@pytest.fixture(scope="module")
def toy(example):
    return example("toy_landscape")


@pytest.fixture(scope="module")
def result(toy, tmp_path_factory):
    """One quick run for all tests; `pcgrad` is left to the full one."""
    folder = tmp_path_factory.mktemp("toy")
    table, paths = toy.main(METHODS, quick=True, out=folder)
    return {"table": table, "ends": {m: path[-1] for m, path in paths.items()}, "folder": folder}


def test_losses_worked_by_hand(toy):
    # In the bowls, at (0, -8): (49 + 0) / 10 - 20, times tanh(4); there is no valley part.
    bowl = (4.9 - 20) * np.tanh(4.0)
    np.testing.assert_allclose(toy.losses(tf.constant([[0.0, -8.0]])), [[bowl, bowl]], rtol=1e-6)
    # In the valleys, at (-8.5, 7.5), where tanh(-x2) is -1: log(0.75 + 1) + 6 and log(6.75) + 6.
    values = toy.losses(tf.constant([[-8.5, 7.5]], tf.float64), scale=0.1)
    expected = np.tanh(3.75) * np.float64([[0.1 * (np.log(1.75) + 6), np.log(6.75) + 6]])
    np.testing.assert_allclose(values, expected, rtol=1e-5)  # 1 - tanh(7.5) is 6e-7


def test_the_sum_sticks_in_the_valleys_and_else_ends_where_the_mean_is_least(result):
    ends = result["ends"]["sum"]
    np.testing.assert_allclose(ends[[LEFT, RIGHT], 0], [-5, 5], atol=0.5)
    assert (ends[[LEFT, RIGHT], 1] > 1).all()
    np.testing.assert_allclose(ends[BELOW], [[0, -8.3552]] * 3, atol=0.5)


def test_mgda_ends_anywhere_on_the_front(toy, result):
    ends = result["ends"]["mgda"]
    assert toy.distance_to_front(ends).max() < 0.5
    assert ends[LEFT, 0] < -2 < 2 < ends[RIGHT, 0]
    assert ends[LOWER_LEFT, 0] < -5 < 5 < ends[LOWER_RIGHT, 0]


def test_cagrad_leaves_the_valleys_and_ends_where_the_mean_is_least(result):
    ends = result["ends"]["cagrad"]
    np.testing.assert_allclose(ends[BELOW], [[0, -8.3552]] * 3, atol=0.5)
    # These two need more steps for the rest of the way, but are past what holds the sum.
    assert (ends[[LEFT, RIGHT], 1] < 1).all()


def test_nash_mtl_ends_on_the_front_from_every_start(toy, result):
    ends = result["ends"]["nash_mtl"]
    assert toy.distance_to_front(ends).max() < 0.1
    assert ends[MIDDLE, 0] == pytest.approx(0, abs=0.1)
    # In the inner part, where both tasks have gained.
    assert np.abs(ends[:, 0]).max() < 6


def test_the_table_has_a_row_for_every_end_and_the_figure_is_drawn(result):
    header, _, *rows = result["table"].splitlines()
    assert header.endswith("| loss 1 | loss 2 | distance to the front |")
    assert len(rows) == 5 * len(METHODS)
    assert rows[0].startswith("| sum | (-8.5, 7.5) |")
    assert (result["folder"] / "toy_landscape.png").stat().st_size > 10_000
