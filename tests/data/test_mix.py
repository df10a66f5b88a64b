"""Mixtures: which rows come how often, that they come whole, and what a model makes of them."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_mtl
from keras_mtl.data import mix
from keras_mtl.data._proportions import proportions
from keras_mtl.heads import Classification, Regression

rows_of = tf.data.Dataset.from_tensor_slices


def numbered(start, count):
    """Inputs that tell which row they are."""
    return np.arange(start, start + count, dtype="float32")[:, None]


def ages(count=40):
    x = numbered(0, count)
    return rows_of((x, x[:, 0] / 2))


def jobs(count=60):
    x = numbered(1000, count)
    return rows_of((x, {"job": np.arange(count) % 3}))


def two(**arguments):
    return mix({"age": ages(), "job": jobs()}, **{"batch_size": 10, "seed": 0, **arguments})


def gather(mixture):
    """Returns all inputs and labels of a mixture, without the batches."""
    batches = list(mixture.as_numpy_iterator())
    labels = {task: np.concatenate([y[task] for _, y in batches]) for task in batches[0][1]}
    return np.concatenate([x[:, 0] for x, _ in batches]), labels


def counts(mixture):
    """Returns how many rows come from either data set."""
    x, _ = gather(mixture)
    return np.array([(x < 1000).sum(), (x >= 1000).sum()])


# How often.


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("proportional", [0.1, 0.9]),
        (1, [0.1, 0.9]),
        (2.0, [0.25, 0.75]),  # 1 : sqrt(9)
        ("uniform", [0.5, 0.5]),
        (1e10, [0.5, 0.5]),
        (1e-10, [0.0, 1.0]),
        ({"b": 3, "a": 1}, [0.25, 0.75]),
        ({"a": 1e300, "b": 1e300}, [0.5, 0.5]),
        ({"a": 0, "b": 5}, [0.0, 1.0]),
    ],
)
def test_proportions_by_hand(weights, expected):
    received = proportions(weights, {"a": 100, "b": 900}, epochs=2)
    np.testing.assert_allclose(received, [expected] * 2, atol=1e-9)  # 1e10 is not infinity


def test_annealed_goes_from_proportional_to_the_power_of_a_fifth():
    # alpha = 1, 0.6, 0.2, and 32 = 2^5
    expected = [[1 / 33, 32 / 33], [1 / 9, 8 / 9], [1 / 3, 2 / 3]]
    received = proportions("annealed", {"a": 1, "b": 32}, epochs=3)
    np.testing.assert_allclose(received, expected, rtol=1e-12)


def test_sizes_beyond_floats_squared_stay_finite():
    received = proportions("proportional", {"a": 1, "b": 10**300, "c": 10**300}, epochs=1)
    np.testing.assert_allclose(received, [[0.0, 0.5, 0.5]], atol=1e-12)


@pytest.mark.parametrize(
    ("weights", "share"), [("proportional", 0.4), ("uniform", 0.5), ({"age": 1, "job": 9}, 0.1)]
)
def test_rows_come_in_the_stated_proportion(weights, share):
    draws = 10_000
    mixture = two(weights=weights, batch_size=100, steps_per_epoch=draws // 100)
    age, job = counts(mixture)
    assert age + job == draws
    # It is off by more than 4 deviations once in 16,000 seeds.
    assert abs(age - draws * share) < 4 * np.sqrt(draws * share * (1 - share))


def test_batches_come_in_the_stated_proportion():
    mixture = two(weights={"age": 1, "job": 3}, by="batch", batch_size=2, steps_per_epoch=1600)
    age, _ = counts(mixture) / 2
    assert abs(age - 400) < 4 * np.sqrt(1600 * 0.25 * 0.75)


def test_draws_are_independent_of_each_other():
    x, _ = gather(two(weights="uniform", batch_size=50, steps_per_epoch=200))
    from_age = x < 1000
    repeated = (from_age[1:] == from_age[:-1]).sum()
    assert abs(repeated - 5000) < 4 * np.sqrt(10_000 / 4)


def test_each_epoch_has_its_own_proportion():
    datasets = {"age": ages(1), "job": jobs(32)}
    mixture = mix(
        datasets, "annealed", batch_size=100, steps_per_epoch=50, epochs=3, seed=0
    ).as_numpy_iterator()
    for share in (1 / 33, 1 / 9, 1 / 3):
        age = sum((x < 1000).sum() for x, _ in itertools.islice(mixture, 50))
        assert abs(age - 5000 * share) < 4 * np.sqrt(5000 * share * (1 - share))


def test_a_data_set_of_weight_0_never_comes():
    assert counts(two(weights={"age": 1, "job": 0}, steps_per_epoch=50))[1] == 0
    assert counts(two(weights={"age": 0, "job": 1}, steps_per_epoch=50))[0] == 0


# Whole.


@pytest.mark.parametrize(("by", "small"), [("row", 2**16), ("row", 0), ("batch", 2**16)])
def test_a_row_keeps_its_input_and_labels_and_misses_the_others(by, small, monkeypatch):
    # Large rows are filled one by one.
    monkeypatch.setattr("keras_mtl.data._specs._SMALL", small)
    mixture = two(by=by, steps_per_epoch=30)
    x, y = gather(mixture)
    from_age = x < 1000
    np.testing.assert_array_equal(y["age"], np.where(from_age, x / 2, np.nan).astype("float32"))
    np.testing.assert_array_equal(y["job"], np.where(from_age, -1, (x - 1000) % 3))
    assert {task: spec.shape for task, spec in mixture.element_spec[1].items()} == {
        "age": (10,),
        "job": (10,),
    }


@pytest.mark.parametrize("by", ["row", "batch"])
def test_no_row_is_skipped_over_several_epochs(by):
    x, _ = gather(two(by=by, weights="uniform", steps_per_epoch=3, epochs=40))
    age, job = x[x < 1000], x[x >= 1000] - 1000
    np.testing.assert_array_equal(age, np.arange(len(age)) % 40)
    np.testing.assert_array_equal(job, np.arange(len(job)) % 60)
    assert len(age) > 80  # so that both began again
    assert len(job) > 120


def test_by_row_mixes_a_batch_and_by_batch_does_not():
    mixed = [len(set(x[:, 0] >= 1000)) for x, _ in two(steps_per_epoch=40).as_numpy_iterator()]
    pure = [
        len(set(x[:, 0] >= 1000))
        for x, _ in two(steps_per_epoch=40, by="batch").as_numpy_iterator()
    ]
    assert set(pure) == {1}
    assert mixed.count(2) >= 38  # all 10 rows of one data set: once in 160


def test_an_epoch_is_as_long_as_all_rows_by_default():
    mixture = two(batch_size=30)
    assert len(mixture) == 4  # 100 rows
    assert [len(x) for x, _ in mixture] == [30] * 4


def test_a_data_set_smaller_than_a_batch_fills_one():
    x, y = next(iter(mix({"age": ages(3)}, batch_size=7)))
    np.testing.assert_array_equal(x[:, 0], [0, 1, 2, 0, 1, 2, 0])
    assert list(y) == ["age"]


def test_several_data_sets_may_have_the_same_task_and_others():
    x = numbered(0, 4)
    both = rows_of((x, {"age": x[:, 0], "job": np.arange(4)}))
    datasets = {"both": both, "job": rows_of((x + 1000, np.arange(4)))}
    x, y = gather(mix(datasets, batch_size=50, seed=0, steps_per_epoch=2))
    np.testing.assert_array_equal(np.isnan(y["age"]), x >= 1000)
    assert (y["job"] >= 0).all()


def test_inputs_may_be_a_dict_and_labels_too():
    x = {"image": np.zeros((3, 2, 2)), "text": ["a", "b", "c"]}
    boxes = {"boxes": np.zeros((3, 5, 4), "float32"), "labels": np.zeros((3, 5), "int32")}
    datasets = {"a": rows_of((x, {"detect": boxes})), "b": rows_of((x, [0.0, 1.0, 2.0]))}
    x, y = next(iter(mix(datasets, {"a": 0, "b": 1}, batch_size=3)))
    assert x["text"].numpy().tolist() == [b"a", b"b", b"c"]
    assert np.isnan(y["detect"]["boxes"]).all()
    np.testing.assert_array_equal(y["detect"]["labels"], np.full((3, 5), -1))


def test_rows_of_different_length_are_padded_with_labels_that_count_as_missing():
    def sentences():
        for length in (1, 3, 2):
            yield np.ones(length, "int32"), np.ones(length, "int64"), np.float32(length)

    spec = [tf.TensorSpec([None], "int32"), tf.TensorSpec([None], "int64"), tf.TensorSpec([])]
    tagged = tf.data.Dataset.from_generator(sentences, output_signature=tuple(spec))
    datasets = {"tagged": tagged.map(lambda x, tags, length: (x, {"tag": tags, "length": length}))}
    x, y = next(iter(mix(datasets, batch_size=3, steps_per_epoch=1)))
    np.testing.assert_array_equal(x, [[1, 0, 0], [1, 1, 1], [1, 1, 0]])
    np.testing.assert_array_equal(y["tag"], [[1, -1, -1], [1, 1, 1], [1, 1, -1]])
    np.testing.assert_array_equal(y["length"], [1, 3, 2])


@pytest.mark.parametrize("by", ["row", "batch"])
def test_rows_of_a_ragged_tensor_are_padded_as_those_of_a_generator(by):
    words = [[1, 2, 3], [4], [5, 6]]
    ragged = rows_of((tf.ragged.constant(words), {"tags": tf.ragged.constant(words)}))
    signature = (tf.TensorSpec([None], tf.int32), {"tags": tf.TensorSpec([None], tf.int32)})
    generated = tf.data.Dataset.from_generator(
        lambda: ((row, {"tags": row}) for row in words), output_signature=signature
    )
    sizes = {"a": 3}
    mixtures = [mix({"a": rows}, batch_size=3, by=by, sizes=sizes) for rows in (ragged, generated)]
    (x, y), (same_x, same_y) = (next(mixture.as_numpy_iterator()) for mixture in mixtures)
    assert x.tolist() == same_x.tolist() == [[1, 2, 3], [4, 0, 0], [5, 6, 0]]
    assert y["tags"].tolist() == same_y["tags"].tolist() == [[1, 2, 3], [4, -1, -1], [5, 6, -1]]


def sentences(task, words, *, letters=3):
    """Rows of no fixed length: a word id and its letters a token, and a tag a token."""
    inputs = {
        "letters": tf.RaggedTensor.from_row_lengths(
            np.ones((sum(map(len, words)), letters), "int32"), [len(row) for row in words]
        ),
        "words": tf.ragged.constant(words, dtype=tf.int32),
    }
    return rows_of((inputs, {task: tf.ragged.constant(words, dtype=tf.int32)}))


@pytest.mark.parametrize("by", ["row", "batch"])
def test_missing_tags_are_as_long_as_the_sentence(by):
    datasets = {
        "names": sentences("names", [[1, 2, 3], [4]]),
        "slots": sentences("slots", [[11, 12], [13, 14, 15, 16, 17]]),
    }
    mixture = mix(datasets, "uniform", batch_size=4, by=by, steps_per_epoch=20, seed=0)
    for x, y in mixture.as_numpy_iterator():
        words = x["words"]
        assert x["letters"].shape == (*words.shape, 3)
        names, slots = (words > 0) & (words < 10), words > 10
        np.testing.assert_array_equal(y["names"], np.where(names, words, -1))
        np.testing.assert_array_equal(y["slots"], np.where(slots, words, -1))


def test_a_missing_label_of_no_fixed_length_beside_inputs_of_fixed_length_is_one_marker():
    scenes = rows_of((numbered(0, 4), {"scene": [0, 1, 0, 1]}))
    names = rows_of((numbered(4, 2), {"name": tf.ragged.constant([[5, 6, 7], [8]])}))
    batches = keras_mtl.data.concatenate({"scene": scenes, "name": names}, batch_size=5)
    (_, mixed), (_, rest) = batches.as_numpy_iterator()
    assert mixed["name"].tolist() == [[-1, -1, -1]] * 4 + [[5, 6, 7]]
    assert mixed["scene"].tolist() == [0, 1, 0, 1, -1]
    assert rest["name"].tolist() == [[8]]


def ones(shape):
    return np.ones([abs(length) for length in shape], "float32")


def rows_of_shapes(inputs, labels):
    """A data set of one row of ones; a negative length is one that its spec leaves open."""
    shapes = (inputs, labels)
    row = keras.tree.map_shape_structure(ones, shapes)
    spec = keras.tree.map_shape_structure(
        lambda shape: tf.TensorSpec([None if n < 0 else n for n in shape]), shapes
    )
    return tf.data.Dataset.from_generator(lambda: iter([row]), output_signature=spec)


@pytest.mark.parametrize(
    ("inputs", "label", "expected"),
    [
        ((-5,), (-2,), (5,)),  # a tag a word
        ((-5, 3), (-2,), (5,)),
        ((-5, -4), (-2,), (5,)),  # a tag a word, of which the letters are given
        ({"image": (-7, -8, 3), "words": (-5,)}, (-2,), (5,)),
        ((-7, -8, 3), (-2, -2), (7, 8)),  # a class a pixel
        ((-7, -8, 3), (-2, -2, 1), (7, 8, 1)),
        ((-7, -8, 3), {"mask": (-2, -2), "edges": (-2, -2)}, {"mask": (7, 8), "edges": (7, 8)}),
        ((-5,), {"tags": (-2,), "heads": (-2,)}, {"tags": (5,), "heads": (5,)}),
        ((-7, -8, 3), {"boxes": (-2, 4), "labels": (-2,)}, {"boxes": (1, 4), "labels": (1,)}),
        ((7, 8, 3), {"boxes": (-2, 4), "labels": (-2,)}, {"boxes": (1, 4), "labels": (1,)}),
        ((5,), (-2,), (1,)),
    ],
)
@pytest.mark.parametrize("by", ["row", "batch"])
def test_a_missing_label_of_no_fixed_length_is_as_long_as_what_it_labels(
    inputs, label, expected, by
):
    datasets = {
        "labelled": rows_of_shapes(inputs, {"label": label}),
        "other": rows_of_shapes(inputs, {"other": ()}),
    }
    mixture = mix(datasets, {"labelled": 0, "other": 1}, batch_size=2, by=by, steps_per_epoch=1)
    (_, y), *_ = mixture.as_numpy_iterator()
    received = keras.tree.map_structure(lambda part: part.shape[1:], y["label"])
    assert received == expected
    assert all(np.isnan(part).all() for part in keras.tree.flatten(y["label"]))


def test_inputs_of_different_lengths_lend_none_to_a_missing_label():
    inputs = {"audio": tf.TensorSpec((None, 4)), "words": tf.TensorSpec([None], tf.int32)}
    row = {"audio": np.ones((7, 4), "float32"), "words": np.ones(2, "int32")}
    datasets = {
        "tagged": rows_of_structs(
            [(row, {"tags": [0, 1]})], (inputs, {"tags": tf.TensorSpec([None], tf.int32)})
        ),
        "named": rows_of_structs([(row, {"name": 1})], (inputs, {"name": tf.TensorSpec([])})),
    }
    batches = keras_mtl.data.concatenate(datasets, batch_size=2)
    with pytest.raises(tf.errors.InvalidArgumentError, match="a missing label of task"):
        list(batches)


def rows_of_structs(items, signature):
    return tf.data.Dataset.from_generator(lambda: iter(items), output_signature=signature)


def test_objects_of_no_fixed_number_are_padded_as_detection_pads_them():
    head = keras_mtl.heads.Detection(2)
    objects = [
        {"boxes": np.reshape([[0.1, 0.1, 0.6, 0.7]] * count, (-1, 4)), "labels": [1] * count}
        for count in (0, 2, 1)
    ]
    image = np.ones((8, 8, 3), "float32")
    signature = (
        tf.TensorSpec((8, 8, 3)),
        {"found": {"boxes": tf.TensorSpec((None, 4)), "labels": tf.TensorSpec([None], tf.int32)}},
    )
    datasets = {
        "a": rows_of_structs([(image, {"found": x}) for x in objects], signature),
        "b": rows_of((image[None], {"count": [3]})),
    }
    [(_, y)] = keras_mtl.data.concatenate(datasets, batch_size=4, padding={"found": -1})
    expected = head.encode([*objects, None])
    np.testing.assert_array_equal(y["found"]["labels"], expected["labels"])
    np.testing.assert_allclose(y["found"]["boxes"], expected["boxes"])
    assert y["count"].numpy().tolist() == [-1, -1, -1, 3]


@pytest.mark.parametrize("by", ["row", "batch"])
def test_texts_of_no_fixed_length_are_padded_as_transcription_pads_them(by):
    head = keras_mtl.heads.Transcription("ab")
    signature = (tf.TensorSpec((5, 3)), {"text": tf.TensorSpec([None], tf.int32)})
    sound = np.ones((5, 3), "float32")
    datasets = {
        "texts": rows_of_structs([(sound, {"text": ids}) for ids in ([1, 2, 1], [2])], signature),
        "speakers": rows_of((sound[None], {"speaker": [1]})),
    }
    mixture = mix(
        datasets,
        "uniform",
        batch_size=6,
        by=by,
        steps_per_epoch=8,
        sizes={"texts": 2},
        padding={"text": 0},
        seed=0,
    )
    texts = {"aba": [1, 2, 1], "b": [2, 0, 0], None: [-1, -1, -1]}
    assert head.encode(list(texts)).tolist() == list(texts.values())
    for _, y in mixture.as_numpy_iterator():
        length = y["text"].shape[1]
        for ids, speaker in zip(y["text"].tolist(), y["speaker"].tolist(), strict=True):
            known = [row[:length] for row in texts.values()]
            assert ids in known
            assert (ids == [-1] * length) == (speaker == 1)


def test_a_tagger_of_two_data_sets_learns_both():
    datasets = {
        "names": sentences("names", [[1, 2, 0], [2]]),
        "slots": sentences("slots", [[4, 3, 3, 4], [3, 4]]),
    }
    inputs = {
        name: keras.Input(shape, dtype="int32", name=name)
        for name, shape in (("words", (None,)), ("letters", (None, 3)))
    }
    trunk = [keras.layers.Embedding(5, 8, mask_zero=False)]
    heads = {task: keras_mtl.heads.Tagging(5, scheme=None) for task in datasets}
    model = keras_mtl.architectures.hard_sharing(inputs["words"], trunk, heads)
    model.compile(keras.optimizers.Adam(0.1))

    rows = {task: data.map(lambda x, y: (x["words"], y)) for task, data in datasets.items()}
    model.fit(mix(rows, batch_size=4, steps_per_epoch=60, seed=0), verbose=0)
    results = model.evaluate(
        keras_mtl.data.concatenate(rows, batch_size=4), return_dict=True, verbose=0
    )
    assert results["names_accuracy"] == results["slots_accuracy"] == 1.0


def test_batched_data_sets_are_refused_by_the_model():
    x = np.zeros((8, 2), "float32")
    datasets = {"age": rows_of((x, x[:, 0])), "size": rows_of((x, x[:, 0]))}
    mixture = mix({name: rows.batch(2) for name, rows in datasets.items()}, batch_size=4)
    model = keras_mtl.architectures.hard_sharing(
        keras.Input((2,)), keras.layers.Dense(2), dict.fromkeys(datasets, Regression())
    )
    model.compile("sgd")
    with pytest.raises(ValueError, match=r"\('batch', 2\), received \(4, None, 2\)"):
        model.fit(mixture, verbose=0)


@pytest.mark.parametrize("marker", [255, np.uint8(255)])
def test_the_marker_may_be_the_heads_own(marker):
    x = numbered(0, 2)
    masks = rows_of((x, {"mask": np.ones((2, 3, 3), "uint8")}))
    datasets = {"mask": masks, "age": ages(2)}
    _, y = next(iter(mix(datasets, {"mask": 0, "age": 1}, batch_size=2, missing={"mask": marker})))
    assert y["mask"].dtype == "uint8"
    np.testing.assert_array_equal(y["mask"], np.full((2, 3, 3), 255))


# Repeatable.


def test_a_seed_repeats_the_choices_and_epochs_differ():
    def epochs(seed):
        mixture = two(steps_per_epoch=5, seed=seed)
        return np.array([[x for x, _ in mixture.as_numpy_iterator()] for _ in range(2)])

    first, second = epochs(seed=0)
    assert (first != second).any()
    np.testing.assert_array_equal(epochs(seed=0), [first, second])
    assert (epochs(seed=1)[0] != first).any()


@pytest.mark.parametrize("by", ["row", "batch"])
def test_a_restored_iterator_goes_on_as_the_one_saved(by, tmp_path):
    def mixture():
        datasets = {"age": ages().shuffle(40, seed=1), "job": jobs().shuffle(9, seed=2)}
        return mix(datasets, "annealed", batch_size=10, by=by, epochs=2, seed=3)

    iterator = iter(mixture())
    for _ in range(7):
        next(iterator)
    path = tf.train.Checkpoint(iterator=iterator).save(tmp_path / "state")
    expected = [x.numpy() for x, _ in iterator]

    restored = iter(mixture())
    tf.train.Checkpoint(iterator=restored).restore(path)
    received = [x.numpy() for x, _ in restored]

    assert len(expected) == 13
    np.testing.assert_array_equal(received, expected)


# In training.


def build(optimizer="sgd"):
    tasks = {"age": Regression(), "job": Classification(3)}
    trunk = keras.layers.Dense(4, activation="tanh", name="trunk")
    model = keras_mtl.architectures.hard_sharing(keras.Input((1,), name="x"), trunk, tasks)
    model.compile(optimizer)
    return model


def scaled(datasets):
    return {name: rows.map(lambda x, y: (x / 1000, y)) for name, rows in datasets.items()}


def test_each_loss_is_that_of_the_rows_with_a_label():
    model = build()
    mixture = mix(scaled({"age": ages(), "job": jobs()}), batch_size=30, seed=0)
    logs = model.evaluate(mixture.take(1), return_dict=True, verbose=0)

    x, y = next(iter(mix(scaled({"age": ages(), "job": jobs()}), batch_size=30, seed=0)))
    predictions = model.predict(x, verbose=0)
    present = np.flatnonzero(y["job"].numpy() >= 0)
    assert 0 < len(present) < 30
    picked = predictions["job"][present, y["job"].numpy()[present]]
    errors = predictions["age"][:, 0] - y["age"].numpy()
    # float32 in another order
    assert logs["job_loss"] == pytest.approx(-np.log(picked).mean(), rel=1e-5)
    assert logs["age_loss"] == pytest.approx(np.nanmean(errors**2), rel=1e-5)
    hits = predictions["job"][present].argmax(1) == y["job"].numpy()[present]
    assert logs["job_accuracy"] == pytest.approx(hits.mean(), rel=1e-5)


@pytest.mark.parametrize("by", ["row", "batch"])
def test_a_model_learns_both_tasks_from_a_mixture(by):
    model = build(keras.optimizers.Adam(0.03))
    x = np.random.default_rng(0).uniform(-1, 1, (200, 1)).astype("float32")
    datasets = {
        "age": rows_of((x, 3 * x[:, 0])).shuffle(200, seed=0),
        "job": rows_of((x, (x[:, 0] > 0).astype("int32") + 1)).shuffle(200, seed=1),
    }
    mixture = mix(datasets, batch_size=20, by=by, steps_per_epoch=20, epochs=5, seed=0)
    history = model.fit(mixture, epochs=5, steps_per_epoch=20, verbose=0).history
    assert history["age_loss"][-1] < 0.1 * history["age_loss"][0]
    assert history["job_accuracy"][-1] > 0.9


def test_an_epoch_of_fit_is_an_epoch_of_the_mixture():
    seen = []

    def note(batch, logs):
        seen.append(batch)

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=note)
    build().fit(two(steps_per_epoch=3), epochs=2, verbose=0, callbacks=[callback])
    assert seen == [0, 1, 2, 0, 1, 2]


def test_two_replicas_learn_from_a_mixture_as_one_device(strategy):
    datasets = scaled({"age": ages(), "job": jobs()})
    one = build()
    with strategy.scope():
        other = build()
    other.set_weights(one.get_weights())
    for model in (one, other):
        mixture = mix(datasets, batch_size=10, steps_per_epoch=3, seed=0)
        model.fit(mixture, verbose=0)
    for left, right in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-6)  # float32 sums of halves


# Errors.


def unbounded():
    spec = (tf.TensorSpec([1]), tf.TensorSpec([]))
    return tf.data.Dataset.from_generator(lambda: iter([([0.0], 0.0)]), output_signature=spec)


def spoken(dtype):
    """Rows of no fixed length, with a label a step."""
    words = tf.ragged.constant([[1, 0, 1], [1]])
    return rows_of((words, {"spoken": tf.cast(words, dtype)}))


def of_unknown_rank(dataset):
    spec = (tf.TensorSpec(None), tf.TensorSpec([]))
    return tf.data.Dataset.from_generator(lambda: dataset, output_signature=spec)


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        (
            {"age": ages(), "b": rows_of((np.zeros((3, 2), "float32"), np.zeros(3)))},
            r"`datasets\['b'\]` must have the same inputs as `datasets\['age'\]`.*"
            r"Expected float32\(1,\), received float32\(2,\)",
        ),
        ({"age": ages(), "b": rows_of((np.zeros((3, 1)), np.zeros(3)))}, r"received float64\(1,\)"),
        (
            {"age": ages(), "b": rows_of(({"x": numbered(0, 3)}, np.zeros(3)))},
            r"received {x: float32\(1,\)}",
        ),
        (
            {"age": ages(), "b": rows_of((numbered(0, 3), {"age": np.zeros(3, "int32")}))},
            r"labels of task 'age' must be alike.*Expected float32\(\), as in `datasets\['age'\]`, "
            r"received int32\(\) in `datasets\['b'\]`",
        ),
        ({"age": ages().take(0)}, r"`datasets\['age'\]` must have rows"),
        ({"age": ages().filter(lambda x, y: y < 0)}, r"`datasets\['age'\]` must have rows"),
        (
            {"age": rows_of(numbered(0, 3))},
            r"`datasets\['age'\]` must have elements `\(x, label\)`",
        ),
        (
            {"age": rows_of((tf.ragged.constant([[[1.0]], [[1.0, 2.0], []]]), [0.0, 1.0]))},
            r"`datasets\['age'\]` must have dense tensors.*`.to_tensor\(\)`",
        ),
        (
            {"age": ages().apply(of_unknown_rank)},
            r"must have dense tensors of known rank .* received \(float32<unknown>, float32\(\)\)",
        ),
        ({"my age": ages()}, "A task name must be"),
        ({}, r"`datasets` must be a dict .* with one entry at least"),
        (
            {"age": ages(), "b": rows_of((numbered(0, 3), np.zeros(3, "uint8")))},
            r"labels of task 'b' must have a dtype that can mark missing.*received uint8.*"
            r"or give `missing={'b': ...}`",
        ),
        (
            {"a": spoken("bool"), "b": rows_of((tf.ragged.constant([[1], [2]]), [0.0, 1.0]))},
            r"task 'spoken' .* since some rows have none, received bool\. Cast",
        ),
        (
            {"a": spoken("bool")},
            r"task 'spoken' .* since rows differ in length and are padded with them, rec.*bool\.",
        ),
        (
            {"a": spoken("uint8")},
            r"rows differ in length .* received uint8\. .*or give `missing={'spoken': ...}`",
        ),
        ({"age": ages(), "b": rows_of((numbered(0, 3), ["a"] * 3))}, r"task 'b'.*received string"),
        (
            {"age": ages(), "b": rows_of((numbered(0, 3), [True] * 3))},
            r"task 'b'.*received bool. .*\(NaN\)\.$",
        ),
        (
            {"age": unbounded(), "job": jobs()},
            r"`sizes` must give the number of rows of \['age'\].*`weights='prop",
        ),
        ({"age": ages().repeat()}, r"Write `sizes={'age': ...}`"),
    ],
)
def test_data_sets_that_do_not_fit_are_refused(datasets, message):
    with pytest.raises(ValueError, match=message):
        mix(datasets, batch_size=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"weights": "even"},
            r"`weights` must be one of \['proportional', 'uniform', 'annealed'\]",
        ),
        ({"weights": "anneal"}, "Did you mean 'annealed'"),
        ({"weights": "annealed"}, r"`weights='annealed'` needs `epochs` >= 2"),
        ({"weights": 0.0}, "`weights` must be a finite number > 0"),
        ({"weights": {"age": 1}}, r"`weights`.*Missing: \['job'\]"),
        ({"weights": {"age": 1, "jobs": 1}}, r"Unknown: \['jobs'\]. Did you mean 'job'"),
        ({"weights": {"age": 0, "job": 0}}, "`weights` must have an entry > 0"),
        ({"weights": {"age": -1, "job": 1}}, r"`weights\['age'\]` must be a finite number >= 0"),
        ({"sizes": {"joob": 3}}, r"`sizes` must be keyed by data set.*Did you mean 'job'"),
        ({"sizes": {"job": 0}}, r"`sizes\['job'\]` must be an integer >= 1"),
        ({"missing": {"jobs": 255}}, r"`missing` must have only task names.*'jobs' to 'job'"),
        ({"missing": {"age": 255}}, r"`missing\['age'\]`.*Float labels are missing where .* NaN"),
        ({"missing": {"job": 2**70}}, r"`missing\['job'\]` must be a class id that labels"),
        ({"by": "rows"}, r"`by` must be one of \['row', 'batch'\]"),
        ({"batch_size": 0}, "`batch_size` must be an integer >= 1"),
        ({"steps_per_epoch": 0}, "`steps_per_epoch` must be an integer >= 1"),
        ({"epochs": 0}, "`epochs` must be an integer >= 1"),
        ({"padding": {"jobs": 0}}, "`padding` .*jobs"),
    ],
)
def test_values_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        two(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"datasets": [ages()]}, "`datasets` must be a dict from name"),
        ({"datasets": {"age": np.zeros(3)}}, r"`datasets\['age'\]`.*from_tensor_slices"),
        ({"weights": None}, "`weights` must be a finite number > 0"),
        ({"sizes": [3]}, "`sizes` must be a dict keyed by data set"),
        ({"missing": {"job": np.nan}}, r"`missing\['job'\]` must be an integer"),
        ({"padding": {"job": "0"}}, r"`padding\['job'\]` must be a finite number"),
        ({"seed": 0.5}, "`seed` must be None or an integer"),
    ],
)
def test_types_that_do_not_fit_are_refused(arguments, message):
    datasets = {"age": ages(), "job": jobs()}
    with pytest.raises(TypeError, match=message):
        mix(**{"datasets": datasets, "batch_size": 2, **arguments})


def test_sizes_stand_for_what_a_data_set_does_not_tell():
    mixture = mix({"age": unbounded(), "job": jobs()}, batch_size=10, sizes={"age": 40})
    assert len(mixture) == 10


@pytest.mark.parametrize(
    ("others", "weights"), [({}, "proportional"), ({"job": jobs()}, "uniform")]
)
def test_sizes_are_not_needed_where_nothing_goes_by_them(others, weights):
    mixture = mix({"age": unbounded(), **others}, weights, batch_size=4, steps_per_epoch=2)
    assert [len(x) for x, _ in mixture] == [4, 4]
