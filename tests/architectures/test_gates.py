"""Gates and mixtures, in numbers worked by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mtl.architectures._gates import Gate, Mixture, PooledInputs, gate_features


def gate(kernel, **options):
    """A gate with that kernel."""
    kernel = np.asarray(kernel, "float32")
    layer = Gate(kernel.shape[1], **options)
    layer.build((None, kernel.shape[0]))
    layer.kernel.assign(kernel)
    return layer


def weighing(*weights, rows=1, **options):
    """A gate that gives experts these weights, and inputs for it."""
    return gate([np.log(weights)], **options), np.ones((rows, 1), "float32")


def test_weights_are_a_softmax():
    weights = gate([[1.0, 0.0], [0.0, 1.0]])(np.log([[3.0, 1.0], [1.0, 4.0]]))
    np.testing.assert_allclose(weights, [[0.75, 0.25], [0.2, 0.8]], rtol=1e-6)


def test_temperature_divides_the_logits():
    weights = gate([[1.0, 0.0]], temperature=2.0)(np.log([[9.0]]))
    np.testing.assert_allclose(weights, [[0.75, 0.25]], rtol=1e-6)


def test_a_single_expert_has_the_whole_weight():
    np.testing.assert_array_equal(gate([[-7.0]])(np.ones((2, 1))), [[1.0], [1.0]])


@pytest.mark.parametrize("size", [1e-10, 1.0, 1e10])
def test_weights_are_finite_and_sum_to_one(size):
    weights = np.asarray(gate([[1.0, -1.0, 0.5]])(np.array([[size], [-size], [0.0]])))
    assert np.all(weights >= 0)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-6)


def test_dropout_leaves_experts_out_by_chance_and_never_all():
    layer, x = weighing(1.0, 1.0, rows=4000, dropout=0.5, seed=3)
    weights = np.asarray(layer(x, training=True))
    # One expert with chance 1/4 each; both where both are kept, and where none would be.
    for outcome, chance in {(1.0, 0.0): 0.25, (0.0, 1.0): 0.25, (0.5, 0.5): 0.5}.items():
        share = np.mean(np.all(weights == outcome, axis=1))
        # Four standard deviations of a binomial share.
        assert abs(share - chance) < 4 * np.sqrt(chance * (1 - chance) / 4000)


def test_dropout_scales_the_weights_of_the_others_to_sum_to_one():
    layer, x = weighing(3.0, 2.0, 1.0, rows=500, dropout=0.4, seed=1)
    weights = np.asarray(layer(x, training=True))
    kept = np.where(weights > 0, [3.0, 2.0, 1.0], 0.0)
    np.testing.assert_allclose(weights, kept / kept.sum(axis=1, keepdims=True), rtol=1e-5)
    assert len(np.unique(kept, axis=0)) == 7  # all subsets but the empty one


def test_dropout_is_off_outside_training():
    layer, x = weighing(3.0, 1.0, rows=50, dropout=0.9)
    np.testing.assert_allclose(layer(x), np.tile([0.75, 0.25], (50, 1)), rtol=1e-6)


def test_an_expert_of_no_weight_takes_over_where_the_others_are_left_out():
    layer = gate([[0.0, -1000.0]], dropout=0.5, seed=3)
    with tf.GradientTape() as tape:
        weights = layer(np.ones((50, 1), "float32"), training=True)
        total = tf.reduce_sum(weights[:, 1] ** 2)
    found = {tuple(row) for row in weights.numpy()}
    assert found == {(1.0, 0.0), (0.0, 1.0)}
    assert np.all(np.isfinite(tape.gradient(total, layer.kernel.value)))


def test_load_balancing_adds_the_squared_coefficient_of_variation_of_mean_weights():
    layer = gate([[1.0, 0.0]], load_balancing=0.1)
    layer(np.log([[3.0], [3.0]]))
    # Means (3/4, 1/4): variance 1/16 over the squared mean 1/4.
    np.testing.assert_allclose(layer.losses, [0.1 * 0.25], rtol=1e-6)
    layer(np.log([[3.0], [1 / 3]]))  # each expert leads in one example
    np.testing.assert_allclose(layer.losses, [0.0], atol=1e-12)


def test_load_balancing_of_a_batch_without_rows_is_zero():
    layer = gate([[1.0, 0.0]], load_balancing=0.1)
    layer(np.zeros((0, 1), "float32"))
    np.testing.assert_array_equal(layer.losses, [0.0])


def test_load_balancing_does_not_see_the_dropout():
    layer, x = weighing(1.0, 1.0, rows=3, load_balancing=1.0, dropout=0.5, seed=0)
    assert not np.all(np.asarray(layer(x, training=True)) == 0.5)
    np.testing.assert_allclose(layer.losses, [0.0], atol=1e-12)


@pytest.mark.parametrize("policy", ["mixed_float16", "bfloat16", "float32"])
def test_gates_are_computed_in_float32(policy):
    layer = gate([[100.0, 99.0]], dtype=policy)
    assert layer(keras.Input((1,), dtype="float16")).dtype == "float32"
    # Logits of 1e5 and 9.9e4, beyond float16.
    weights = layer(np.full((1, 1), 1000, "float16"))
    assert keras.backend.standardize_dtype(weights.dtype) == "float32"
    np.testing.assert_array_equal(weights, [[1.0, 0.0]])


def test_a_gate_keeps_its_options_in_its_config():
    options = {"temperature": 2.0, "dropout": 0.25, "load_balancing": 0.5, "seed": 7}
    layer = Gate(3, **options, kernel_initializer="zeros", name="digit_gate")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert isinstance(again, Gate)
    assert again.get_config() == layer.get_config()
    assert options.items() <= again.get_config().items()


def test_gates_read_one_tensor_of_channels_as_it_is():
    inputs = keras.Input((4,))
    assert gate_features(inputs) is inputs
    assert gate_features({"x": inputs}) is inputs


def test_gates_do_not_read_masks():
    inputs = keras.Input((4,))
    mask = keras.Input((7,), dtype="bool")
    assert gate_features({"x": inputs, "mask": mask}) is inputs
    with pytest.raises(ValueError, match=r"Gates read numbers, input .* holds bool"):
        gate_features(mask)


def test_gates_read_means_over_positions_joined():
    inputs = {
        "image": keras.Input((2, 2, 1), name="image"),
        "row": keras.Input((2,), name="row"),
        "number": keras.Input((), name="number"),
    }
    model = keras.Model(inputs, gate_features(inputs))
    image = np.array([[[[1.0], [2.0]], [[3.0], [4.0]]]])
    given = {"image": image, "row": np.array([[5.0, 6.0]]), "number": np.array([7.0])}
    means = {"image": [2.5], "row": [5.0, 6.0], "number": [7.0]}
    expected = np.concatenate([means[key] for key in sorted(inputs)])  # as Keras orders dicts
    np.testing.assert_allclose(model(given), [expected])


def test_padding_is_left_out_of_the_means_and_goes_no_further():
    ids = keras.Input((None,), dtype="int32")
    embedding = keras.layers.Embedding(3, 1, mask_zero=True)
    pooled = gate_features(embedding(ids))
    embedding.set_weights([np.array([[100.0], [1.0], [3.0]])])
    model = keras.Model(ids, pooled)
    found = model(np.array([[1, 2, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0]]))
    np.testing.assert_allclose(found, [[2.0], [3.0], [0.0]])  # a row of padding gives 0
    assert not hasattr(found, "_keras_mask")


def test_pooled_inputs_come_back_from_their_config():
    layer = PooledInputs(name="pooled")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert again.get_config() == layer.get_config()


def test_integers_are_refused():
    inputs = {"x": keras.Input((3,)), "ids": keras.Input((5,), dtype="int32", name="ids")}
    with pytest.raises(ValueError, match=r"input 'ids' holds int32 .*\(None, 5\)\. Embed or scale"):
        gate_features(inputs)


WEIGHTS = np.array([[0.25, 0.75], [1.0, 0.0]], "float32")


def test_a_mixture_weighs_experts_one_by_one():
    first, second = np.ones((2, 3, 1), "float32"), np.full((2, 3, 1), 5.0, "float32")
    mixed = Mixture()([WEIGHTS, first, second])
    np.testing.assert_allclose(mixed, np.reshape([4.0] * 3 + [1.0] * 3, (2, 3, 1)))


def test_a_mixture_weighs_stacked_experts_in_the_order_given():
    one = np.array([[[1.0, 2.0]], [[3.0, 4.0]]], "float32")
    other = np.array([[[5.0, 6.0]], [[7.0, 8.0]]], "float32")
    expected = [[0.25 * 1 + 0.75 * 5, 0.25 * 2 + 0.75 * 6], [3.0, 4.0]]
    np.testing.assert_allclose(Mixture(stacked=True)([WEIGHTS, one, other]), expected)
    whole = np.concatenate([one, other], axis=1)
    np.testing.assert_allclose(Mixture(stacked=True)([WEIGHTS, whole]), expected)


def test_a_mixture_passes_the_mask_of_its_experts():
    ids = keras.Input((None,), dtype="int32")
    steps = keras.layers.Embedding(3, 2, mask_zero=True)(ids)
    weights = Gate(2)(gate_features(steps))
    model = keras.Model(ids, Mixture()([weights, steps, steps]))
    mixed = model(np.array([[1, 2, 0]]))
    np.testing.assert_array_equal(mixed._keras_mask, [[True, True, False]])


def test_a_mixture_keeps_its_option_in_its_config():
    layer = Mixture(stacked=True, name="digit_mixture")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert again.get_config() == layer.get_config()
    assert again.stacked
