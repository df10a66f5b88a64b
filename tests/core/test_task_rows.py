"""Rows written into their places are the rows stacked; training does not tell the difference."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_mtl
from keras_mtl.balancing import MGDA, ExcessMTL, GradDrop, MoDo
from keras_mtl.core import in_turn, task_rows
from keras_mtl.core.task_rows import TaskRows

ROWS = [[[1.0, 2.0], [3.0]], [[4.0, 5.0], [6.0]], [[7.0, 8.0], [9.0]]]


@pytest.mark.parametrize("size", [0, task_rows.SMALL])
@pytest.mark.parametrize("wrap", [lambda function: function, tf.function])
def test_matrices_hold_a_row_for_each_task(size, wrap):
    def matrices():
        rows = TaskRows(3, size, compiled=False)
        for task in ROWS:
            with rows.after_the_last():
                rows.add([tf.constant(row) for row in task])
        return rows.matrices()

    first, second = wrap(matrices)()
    np.testing.assert_array_equal(first, [[1, 2], [4, 5], [7, 8]])
    np.testing.assert_array_equal(second, [[3], [6], [9]])


def test_compiled_rows_are_stacked_whatever_their_size():
    @tf.function(jit_compile=True)
    def matrix(row):
        rows = TaskRows(2, task_rows.SMALL, compiled=True)
        rows.add([row])
        rows.add([2.0 * row])
        return rows.matrices()[0]

    np.testing.assert_array_equal(matrix(tf.constant([1.0, 3.0])), [[1, 3], [2, 6]])


def trained(**options):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3,))
    shared = keras.layers.Dense(4, activation="relu")(inputs)
    outputs = {task: keras.layers.Dense(1)(shared) for task in ("a", "b", "c")}
    model = keras_mtl.MultiTaskModel(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.1), loss="mse", **options)
    x = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    y = {"a": x[:, :1], "b": x[:, 1:2], "c": -x[:, :1]}
    y["b"][5:] = np.nan
    model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
    return [variable.numpy() for variable in model.trainable_variables]


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_balancing": MGDA()},
        {"gradient_balancing": MGDA(refresh_every=2)},
        {"gradient_balancing": MoDo()},
        {"gradient_balancing": MGDA(), "run_eagerly": True},
        {"gradient_balancing": GradDrop(seed=1)},
        {"gradient_balancing": GradDrop(leak=0.5, seed=1)},
        {"gradient_balancing": ExcessMTL(learning_rate=1.0)},
        {"gradient_balancing": ExcessMTL(learning_rate=1.0), "jit_compile": True},
    ],
    ids=["mgda", "mgda-refresh", "modo", "eager", "graddrop", "leak", "excess", "excess-xla"],
)
def test_training_is_the_same_with_small_and_large_gradients(options, monkeypatch):
    small = trained(**options)
    monkeypatch.setattr(task_rows, "SMALL", 0)
    monkeypatch.setattr(in_turn, "SMALL", 0)
    for first, second in zip(small, trained(**options), strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-6, atol=1e-7)  # float32 rounding


def test_two_replicas_write_their_rows_too(strategy, monkeypatch):
    alone = trained(gradient_balancing=MGDA())
    monkeypatch.setattr(task_rows, "SMALL", 0)
    with strategy.scope():
        together = trained(gradient_balancing=MGDA())
    for first, second in zip(alone, together, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-6)  # sums in another order


def test_parts_in_turn_are_those_of_a_map(monkeypatch):
    monkeypatch.setattr(in_turn, "SMALL", 0)
    parts, factors = [tf.constant([1.0]), tf.constant([2.0, 3.0])], [10.0, 100.0]
    run = tf.function(lambda: in_turn.in_turn(lambda part, factor: part * factor, parts, factors))
    np.testing.assert_array_equal(run()[0], [10])
    np.testing.assert_array_equal(run()[1], [200, 300])


def test_variable_that_a_turn_returns_is_read_in_that_turn(monkeypatch):
    monkeypatch.setattr(in_turn, "SMALL", 0)
    sums = tf.Variable(0.0)

    def add(part):
        sums.assign_add(part)
        return sums

    run = tf.function(lambda: in_turn.in_turn(add, [tf.constant(1.0), tf.constant(2.0)]))
    assert [float(result) for result in run()] == [1.0, 3.0]


def test_rows_in_turn_are_those_of_the_matrix(monkeypatch):
    monkeypatch.setattr(in_turn, "SMALL", 0)
    heights = []

    def lengths(rows, factors):
        heights.append(rows.shape[0])
        return tf.reduce_sum(rows * factors, axis=1)

    rows, factors = tf.constant([[1.0, 2.0], [3.0, 4.0]]), tf.constant([[1.0, 10.0], [2.0, 0.0]])
    run = tf.function(lambda: in_turn.rows_in_turn(lengths, rows, factors))
    np.testing.assert_array_equal(run(), [21, 6])
    assert heights == [1, 1]


def operations_before(operation):
    """The names of all operations for which one waits."""
    names, waiting = set(), [operation]
    while waiting:
        current = waiting.pop()
        before = [*(tensor.op for tensor in current.inputs), *current.control_inputs]
        waiting.extend(found for found in before if found.name not in names)
        names.update(found.name for found in before)
    return names


def test_terms_of_a_sum_wait_for_the_sum_of_those_before():
    terms = []

    def doubled(part):
        terms.append(2.0 * part)
        return terms[-1]

    run = tf.function(lambda parts: in_turn.sum_in_turn(doubled, tf.unstack(parts)))
    assert float(run(tf.constant([1.0, 2.0, 3.0]))) == 12
    for term, later in itertools.pairwise(terms):
        assert term.op.name in operations_before(later.op)


def operations_of(balancing, *kinds):
    """The operations of each kind by which a balancing combines two gradients in two parts."""
    balancing.build_for(2)
    balancing.build_for_parts([3, 4])

    @tf.function
    def combine():
        gradients = [tf.random.normal((2, 3)), tf.random.normal((2, 4))]
        return balancing.combine(gradients, None, tf.ones(2))

    operations = combine.get_concrete_function().graph.get_operations()
    return [[found for found in operations if found.type == kind] for kind in kinds]


def test_excess_risks_come_before_what_is_tracked_and_that_before_the_direction(monkeypatch):
    monkeypatch.setattr(in_turn, "SMALL", 0)
    roots, writes, products = operations_of(
        ExcessMTL(), "Sqrt", "AssignVariableOp", "BatchMatMulV2"
    )
    assert len(roots) == 4  # a row at a time
    tracked = writes[-2:]
    for write in tracked:
        assert {root.name for root in roots} <= operations_before(write)
    for product in products[-2:]:
        assert {write.name for write in tracked} <= operations_before(product)


def test_graddrop_has_one_side_before_the_other():
    above, below = operations_of(GradDrop(), "Maximum", "Minimum")
    assert len(above) == len(below) == 4
    for side, rest in ((above[:2], below[:2]), (above[2:], below[2:])):
        assert side[0].name in operations_before(side[1])
        assert all({row.name for row in side} <= operations_before(other) for other in rest)
