"""What may read before the batch is there does, and what counts waits for it."""

import collections

import keras
import pytest
import tensorflow as tf

from keras_mtl.core import early_reads


def model_of(*layers):
    inputs = keras.Input((3,))
    outputs = inputs
    for layer in layers:
        outputs = layer(outputs)
    return keras.Model(inputs, outputs)


def waiting(graph, gate):
    """Returns how many operations of each kind wait for the operation `gate`."""
    late = {gate}
    for op in graph.get_operations():  # in the order in which they were made
        if late.intersection([*op.control_inputs, *(tensor.op for tensor in op.inputs)]):
            late.add(op)
    return collections.Counter(op.type for op in late)


def gated(trace):
    """Traces `trace` behind a gate, as a step is behind its batch; returns graph and gate."""

    @tf.function
    def step():
        gate = tf.raw_ops.NoOp(name="gate")
        with tf.control_dependencies([gate]):
            trace()

    graph = step.get_concrete_function().graph
    return graph, graph.get_operation_by_name("gate")


def test_a_forward_pass_without_state_reads_its_weights_at_once():
    model, x = model_of(keras.layers.Dense(2)), tf.ones((1, 3))

    def trace():
        with early_reads.forward_pass(model):
            model(x)

    assert "ReadVariableOp" not in waiting(*gated(trace))
    assert "ReadVariableOp" in waiting(*gated(lambda: model(x)))


def test_a_forward_pass_with_state_waits():
    model, x = model_of(keras.layers.Dropout(0.5)), tf.ones((1, 3))

    def trace():
        with early_reads.forward_pass(model):
            model(x, training=True)

    assert "AssignVariableOp" in waiting(*gated(trace))


def test_updates_read_at_once_and_the_optimizer_counts_when_told():
    variable = keras.Variable([1.0, 2.0])
    optimizer = keras.optimizers.Adam()
    optimizer.build([variable])

    def trace():
        with early_reads.updates(optimizer):
            optimizer.apply([tf.ones(2)], [variable])

    early = waiting(*gated(trace))
    late = waiting(*gated(lambda: optimizer.apply([tf.ones(2)], [variable])))
    assert early["ReadVariableOp"] < late["ReadVariableOp"]
    assert early["AssignVariableOp"] == late["AssignVariableOp"] == 1  # the count of updates


@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "loss scaling"])
@pytest.mark.parametrize("own", [False, True], ids=["of the class", "of the user"])
def test_the_optimizer_is_afterwards_what_it_was(own, wrapped):
    inner = keras.optimizers.SGD()
    if own:
        given = inner.update_step = lambda *args: None
    optimizer = keras.optimizers.LossScaleOptimizer(inner) if wrapped else inner
    with pytest.raises(RuntimeError), early_reads.updates(optimizer):
        assert "update_step" in vars(inner)
        raise RuntimeError
    assert vars(inner).get("update_step") is (given if own else None)


def test_replicas_that_share_an_optimizer_leave_it_alone(strategy):
    optimizer = keras.optimizers.SGD()
    with strategy.scope(), early_reads.updates(optimizer):
        assert "update_step" not in vars(optimizer)
