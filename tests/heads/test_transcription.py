"""A text from steps: CTC by enumeration, exact padding, error rates over an epoch."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_mtl
from keras_mtl import Task
from keras_mtl.core import transcripts
from keras_mtl.heads import Classification, Transcription
from keras_mtl.metrics import ErrorRate

random = np.random.default_rng(0)


def said(path):
    return tuple(token for token, _ in itertools.groupby(path) if token)


def by_enumeration(probabilities, transcript):
    """The negative log of the sum over all paths that say the transcript."""
    steps, tokens = probabilities.shape
    total = sum(
        np.prod(probabilities[np.arange(steps), path])
        for path in itertools.product(range(tokens), repeat=steps)
        if said(path) == tuple(transcript)
    )
    return -np.log(total)


def identity_head(vocabulary, **kwargs):
    """A head whose logits are its features."""
    return Transcription(vocabulary, kernel_initializer="identity", **kwargs)


@pytest.mark.parametrize("activation", ["softmax", None])
@pytest.mark.parametrize("transcript", [[1, 2], [1, 1], [2], [], [2, 1, 2, 1]])
def test_loss_is_that_of_all_paths_that_say_it(transcript, activation):
    logits = random.normal(size=(1, 4, 3)).astype("float32")
    head = identity_head("ab", activation=activation)
    label = np.array([transcript + [0] * (4 - len(transcript))])
    p = np.exp(logits[0]) / np.exp(logits[0]).sum(-1, keepdims=True)
    loss = head.default_loss()(label, head(logits))
    np.testing.assert_allclose(loss, by_enumeration(p, transcript), rtol=1e-5)


def test_loss_reads_probabilities_that_carry_no_logits():
    head = identity_head("ab")
    probabilities = head(random.normal(size=(2, 4, 3)).astype("float32"))
    labels, loss = np.array([[1, 2], [2, 0]]), head.default_loss()
    np.testing.assert_allclose(
        loss(labels, probabilities.numpy()), loss(labels, probabilities), rtol=1e-5
    )


@pytest.mark.parametrize("logit", [1.0, 1e4])
def test_padding_changes_neither_loss_nor_gradient(logit):
    head = identity_head("ab")
    short = random.normal(size=(1, 3, 3)).astype("float32") * logit
    padded = tf.Variable(np.concatenate([short, np.full((1, 2, 3), np.nan, "float32")], axis=1))
    short = tf.Variable(short)
    label, loss = np.array([[1, 2]]), head.default_loss()
    with tf.GradientTape() as tape:
        value = loss(label, head(short))
    gradient = tape.gradient(value, short)
    with tf.GradientTape() as tape:
        logits = transcripts.only_blank(padded, np.array([[True, True, True, False, False]]))
        again = loss(label, head.activate(logits))
    longer = tape.gradient(again, padded)
    np.testing.assert_allclose(again, value, rtol=1e-6)
    np.testing.assert_allclose(longer[:, :3], gradient, atol=1e-6)
    np.testing.assert_array_equal(longer[:, 3:], 0)


@pytest.mark.parametrize(("transcript", "steps"), [([1, 2, 1, 2], 3), ([1, 1], 2)])
def test_a_transcript_too_long_for_its_steps_teaches_nothing(transcript, steps):
    head = identity_head("ab")
    features = tf.Variable(random.normal(size=(1, steps, 3)))
    with tf.GradientTape() as tape:
        value = head.default_loss()(np.array([transcript]), head(features))
    assert float(value) == 0.0
    np.testing.assert_array_equal(tape.gradient(value, features), 0)


def test_a_certain_transcript_costs_nothing_and_no_less():
    head = identity_head("ab")
    features = 1e4 * np.eye(3, dtype="float32")[[[1, 1, 0, 2]]]
    assert float(head.default_loss()(np.array([[1, 2]]), head(features))) == 0.0


def test_likeliest_tokens_are_those_of_the_greedy_decoder():
    predictions = random.random((50, 9, 4)).astype("float32")
    (decoded,), _ = keras.ops.ctc_decode(predictions, np.full(50, 9), strategy="greedy")
    decoded = np.maximum(decoded, 0)
    np.testing.assert_array_equal(
        transcripts.most_likely(predictions)[:, : decoded.shape[1]], decoded
    )


def padded(length):
    ids = random.integers(1, 4, size=(200, length))
    return np.where(np.arange(length) < random.integers(0, length + 1, size=(200, 1)), ids, 0)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_edit_distance_is_that_of_tensorflow(jit_compile):
    left, right = padded(7), padded(12)
    sparse = [tf.sparse.from_dense(part) for part in (left, right)]
    expected = tf.edit_distance(*sparse, normalize=False)
    distance = tf.function(transcripts.edit_distance, jit_compile=jit_compile)
    np.testing.assert_array_equal(distance(left, right), expected)
    np.testing.assert_array_equal(distance(right, left), expected)


SPACE = 3


@pytest.mark.parametrize("jit_compile", [False, True])
def test_words_are_the_same_where_python_splits_the_same(jit_compile):
    ids = padded(14)
    split = [
        "".join("_ab "[i] for i in row).rstrip("_").split()
        for row in ids  # a and b spell, 3 is a space
    ]
    numbers = tf.function(lambda x: transcripts.words(x, SPACE), jit_compile=jit_compile)(ids)
    seen = {}
    for row, found in zip(split, np.asarray(numbers), strict=True):
        assert np.count_nonzero(found) == len(row)
        assert np.all(found[: len(row)] != 0)
        for word, number in zip(row, found[: len(row)], strict=True):
            assert seen.setdefault(word, number) == number
    assert len(seen) == len(set(seen.values())) > 40


def test_word_error_rate_counts_whole_words():
    head = Transcription("ab ")
    characters, in_words = head.default_metrics()
    for expected, found in [("ab a", "ab b"), ("b", "b  ab")]:  # a wrong word; one too many
        ids = head.encode([expected])
        steps = np.array([i for token in head.encode([found])[0] for i in (token, 0)])
        for metric in (characters, in_words):
            metric.update_state(ids, np.eye(4)[steps[None]])
    assert (characters.name, in_words.name) == ("error_rate", "word_error_rate")
    assert float(characters.result()) == pytest.approx((1 + 4) / 5, abs=1e-6)
    assert float(in_words.result()) == pytest.approx(2 / 3, abs=1e-6)
    assert ErrorRate.from_config(in_words.get_config()).separator == SPACE


def test_words_as_tokens_have_one_error_rate():
    assert [m.name for m in Transcription(["go", " "]).default_metrics()] == ["error_rate"]


def test_error_rate_is_exact_over_batches_and_no_mean_of_theirs():
    metric = ErrorRate()
    metric.update_state([[1, 2, 1, 2]], np.eye(3)[[[1, 2, 1, 2]]])  # no error in 4
    metric.update_state([[1, 0, 0, 0]], np.eye(3)[[[2, 1, 2, 0]]])  # 2 errors in 1
    assert float(metric.result()) == pytest.approx(2 / 5, abs=1e-6)


def test_rows_of_weight_zero_do_not_count():
    metric = ErrorRate()
    p = np.eye(3)[[[1, 2], [2, 2]]]
    metric.update_state([[1, 2], [1, 1]], p, np.array([[1.0, 1.0], [0.0, 0.0]]))
    assert float(metric.result()) == 0.0
    metric.update_state([[1, 2], [1, 1]], p, np.array([1.0, 2.0]))  # 2 rows of 2 errors, of 2 + 4
    assert float(metric.result()) == pytest.approx(4 / 8, abs=1e-6)


ROWS, STEPS, WORDS = 6, 8, ["one", "two", "six"]
LENGTHS = np.array([8, 6, 7, 5, 8, 7])
SOUNDS = random.normal(size=(ROWS, STEPS, 4)).astype("float32")
SOUNDS[np.arange(STEPS) >= LENGTHS[:, None]] = 0.0


def build():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((None, 4), name="sounds")
    trunk = [keras.layers.Masking(), keras.layers.Dense(16, activation="relu")]
    tasks = {"speaker": Classification(2), "text": Transcription("einostwx")}
    model = keras_mtl.architectures.hard_sharing(inputs, trunk, tasks)
    model.compile(keras.optimizers.SGD(0.1))
    return model


HEAD = Transcription("einostwx")
TEXTS = HEAD.encode(["one", "two", None, "six", "one", "two"])


def labels(texts=TEXTS):
    return {"speaker": np.arange(ROWS) % 2, "text": texts}


@pytest.fixture(scope="module")
def trained():
    model = build()
    model.compile(keras.optimizers.Adam(0.05))
    model.fit(SOUNDS, labels(), epochs=15, batch_size=6, verbose=0)
    return model


def test_evaluation_is_that_of_the_rows_with_a_label(trained):
    logs = trained.evaluate(SOUNDS, labels(), batch_size=4, return_dict=True, verbose=0)
    losses, errors = [], 0
    for row in (0, 1, 3, 4, 5):
        # One by one and without padding.
        p = trained.predict(SOUNDS[row : row + 1, : LENGTHS[row]], verbose=0)["text"]
        losses.append(float(keras.losses.ctc(TEXTS[row : row + 1], np.log(p))[0]))
        found = np.array([[*said(p[0].argmax(-1)), *[0] * STEPS]])
        errors += int(transcripts.edit_distance(TEXTS[row : row + 1], found)[0])
    assert logs["text_loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert logs["text_error_rate"] == pytest.approx(errors / 15, abs=1e-6)
    assert 0 < errors < 15


def test_a_row_without_a_label_moves_no_weight():
    model = build()
    other = SOUNDS.copy()
    other[2, :3] = 1.0
    speaker = np.array([0, 1, -1, 1, 0, 1])
    start, ends = model.get_weights(), []
    for sounds in (SOUNDS, other):
        model.set_weights(start)
        model.train_on_batch(sounds, {"speaker": speaker, "text": TEXTS})
        ends.append(model.get_weights())
    for left, right, before in zip(*ends, start, strict=True):
        np.testing.assert_array_equal(left, right)
        assert np.any(left != before)


def test_a_saved_model_goes_on_as_it_was(trained, tmp_path):
    trained.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    logs = [m.evaluate(SOUNDS, labels(), return_dict=True, verbose=0) for m in (trained, again)]
    assert logs[0] == logs[1]
    assert "text_error_rate" in logs[0]


def test_served_ids_are_the_texts(trained, tmp_path):
    trained.export(str(tmp_path / "served"), verbose=False)
    serve = tf.saved_model.load(str(tmp_path / "served")).signatures["serve_text"]
    served = serve(sounds=tf.constant(SOUNDS))["text"]
    expected = [said(p.argmax(-1)) for p in trained.predict(SOUNDS, verbose=0)["text"]]
    assert [tuple(row[row > 0]) for row in served.numpy()] == expected
    assert any(expected)


def test_two_replicas_measure_as_one_device(strategy):
    model = build()
    with strategy.scope():
        twin = build()
    one = model.evaluate(SOUNDS, labels(), batch_size=4, return_dict=True, verbose=0)
    two = twin.evaluate(SOUNDS, labels(), batch_size=4, return_dict=True, verbose=0)
    assert two == pytest.approx(one, rel=1e-5)


def test_upsampling_gives_more_predictions_and_keeps_the_padding():
    head = Transcription("ab", upsampling=3)
    head.build((None, None, 4))
    features = random.normal(size=(1, 2, 4)).astype("float32")
    predictions = head(features, mask=np.array([[True, False]]))
    assert predictions.shape == head.compute_output_shape((1, 2, 4)) == (1, 6, 3)
    np.testing.assert_array_equal(predictions[0, 3:], [[1.0, 0.0, 0.0]] * 3)
    assert not hasattr(predictions, "_keras_mask")


def test_predictions_are_float32_under_mixed_precision():
    head = Transcription("ab", dtype="mixed_float16")
    predictions = head(np.ones((2, 3, 4), "float16"), mask=np.array([[True, False, False]] * 2))
    assert (predictions.dtype, head.dense.compute_dtype) == (tf.float32, "float16")
    np.testing.assert_array_equal(predictions[:, 1:], [[[1.0, 0.0, 0.0]] * 2] * 2)


def test_words_are_encoded_between_spaces():
    head = Transcription(["left", "right", "go"])
    ids = head.encode(["go  left", "", ["right"]])
    np.testing.assert_array_equal(ids, [[3, 1], [0, 0], [2, 0]])
    assert head.texts(ids) == ["go left", "", "right"]


def test_texts_outside_the_vocabulary_are_refused_by_row():
    with pytest.raises(ValueError, match=r"Row 1 of `texts` .* not in the vocabulary: \['c'\]"):
        Transcription("ab").encode(["ab", "abc"])


def test_rows_without_a_text_need_a_marker():
    with pytest.raises(ValueError, match="Row 1 of `texts` is None, but the head has no `ignore"):
        Transcription("ab", ignore_class=None).encode(["ab", None])


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("ab", r"`texts` must be a list of texts, .* received 'ab' of type str. Write `\['ab'\]`"),
        ([float("nan"), "a"], "Row 0 .* None for a row without a text, received nan of type float"),
    ],
)
def test_what_is_no_text_is_refused(texts, message):
    with pytest.raises(TypeError, match=message):
        Transcription("ab").encode(texts)


def test_texts_of_predictions_ask_to_decode_them():
    predictions = np.eye(3)[[[0, 1, 2]]]
    head = Transcription("ab")
    assert head.texts(head.decode(predictions)) == ["ab"]
    with pytest.raises(ValueError, match=r"received shape \(1, 3, 3\), .*texts\(decode\("):
        head.texts(predictions)


def test_config_round_trip_keeps_every_argument():
    head = Transcription(["yes", "no"], None, -100, upsampling=2, name="text")
    again = Transcription.from_config(head.get_config())
    assert again.get_config() == head.get_config()
    assert (again.vocabulary, again.activation, again.ignore_class, again.upsampling) == (
        ["yes", "no"],
        None,
        -100,
        2,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("",), "`vocabulary` must have at least one token"),
        (("aba",), "`vocabulary` must have .* each once"),
        (("ab", "sigmoid"), "`activation` must be one of"),
        (("ab", None, 0), "`ignore_class` must be < 0, received 0"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Transcription(*arguments)


def test_vocabulary_must_hold_strings():
    with pytest.raises(TypeError, match="`vocabulary` must be a string or a list of strings"):
        Transcription([1, 2])


def test_pooled_features_are_refused():
    with pytest.raises(ValueError, match=r"needs features of shape \(batch, steps, channels\)"):
        Transcription("ab")(np.ones((2, 4)))


FAULTS = {
    "text": (np.zeros((ROWS, 2)), r"be integers \(batch, length\)"),
    "rank": (np.zeros(ROWS, "int32"), r"be integers \(batch, length\)"),
    "unknown": (np.full((ROWS, 2), 9), "hold ids from 1 to 8, 0 to pad, or whole rows of -1 .* 9"),
    "padded by -1": (np.array([[1, 2], [3, -1]] * 3), "hold ids .* Received -1. First in row 1"),
    "inner blank": (np.array([[1, 0], [0, 2]] * 3), "have 0 at the end only.* First in row 1"),
    "long": (np.array([[1] * 5] + [[2, 3, 2, 3, 2]] * 5), "fit into the 8 steps.* row 0"),
}


@pytest.fixture(scope="module")
def fixed_length():
    inputs = keras.Input((STEPS, 4), name="sounds")
    model = keras_mtl.architectures.hard_sharing(inputs, keras.layers.Dense(4), {"text": HEAD})
    model.compile("sgd")
    return model


@pytest.mark.parametrize("source", ["arrays", "tf.data"])
@pytest.mark.parametrize("fault", FAULTS)
def test_labels_that_cannot_be_are_refused_by_row(fixed_length, fault, source):
    texts, message = FAULTS[fault]
    data = (SOUNDS, {"text": texts})
    if source == "tf.data":
        data = (tf.data.Dataset.from_tensor_slices(data).batch(ROWS),)
    with pytest.raises(ValueError, match=rf"(?s)`y\['text'\]` must {message}"):
        fixed_length.evaluate(*data, verbose=0)


def test_rows_without_a_label_and_silence_are_no_faults(fixed_length):
    texts = np.array([[-1] * 4, [0] * 4, [1, 2, 3, 0], [1, 2, 3, 4], [1, 1, 1, 1], [-1] * 4])
    logs = fixed_length.evaluate(SOUNDS, {"text": texts}, return_dict=True, verbose=0)
    assert np.isfinite(logs["text_loss"])


def test_a_mask_that_passes_the_head_by_is_refused():
    sounds = keras.Input((STEPS, 4), name="sounds")
    mask = keras.Input((STEPS,), dtype="bool", name="mask")
    outputs, tasks = {"text": Transcription("einostwx")(sounds)}, {"text": Task(mask="mask")}
    model = keras_mtl.MultiTaskModel({"sounds": sounds, "mask": mask}, outputs, tasks=tasks)
    model.compile("sgd")
    x = {"sounds": SOUNDS, "mask": np.ones((ROWS, STEPS), bool)}
    with pytest.raises(ValueError, match="padding mask of a transcription must reach its head"):
        model.evaluate(x, {"text": TEXTS}, verbose=0)
