"""Spoken digits: readers, splits without leakage, augmentation, measures and one quick run."""

import io
import json
import tarfile
import wave

import keras
import numpy as np
import pytest
import tensorflow as tf

SPEAKERS = ("ann", "bob")


def wav(samples, rate=8000, channels=1, width=2):
    """Returns the content of a wav file."""
    content = io.BytesIO()
    with wave.open(content, "wb") as audio:
        audio.setparams((channels, width, rate, 0, "NONE", ""))
        audio.writeframes(np.asarray(samples, "<i2").tobytes())
    return content.getvalue()


def tone(digit, number):
    """A tone whose pitch tells the digit; recordings differ in length, 9 to 12 steps."""
    time = np.arange(1100 + 30 * number) / 8000
    return (8000 * np.sin(2 * np.pi * (300 + 200 * digit) * time)).astype("int16")


@pytest.fixture(scope="session")
def recordings(tmp_path_factory):
    """A folder of wav files, two speakers' digits 0 and 7, 12 times each."""
    folder = tmp_path_factory.mktemp("recordings")
    for speaker in SPEAKERS:
        for digit in (0, 7):
            for number in range(12):
                file = folder / f"{digit}_{speaker}_{number}.wav"
                file.write_bytes(wav(tone(digit, number)))
    return folder


@pytest.fixture(scope="module")
def spoken_digits(example):
    return example("spoken_digits")


@pytest.fixture(scope="module")
def clips(spoken_digits, recordings):
    return spoken_digits.fsdd.read_clips(recordings)


@pytest.fixture(scope="module")
def result(quick, recordings):
    return quick("spoken_digits", "--data", recordings)


def test_table_has_a_row_for_every_method_and_a_column_for_every_measure(result):
    lines = [line.strip("| ").split(" | ") for line in result["table"].splitlines()]
    rows = ["single task", "multi-task", "multi-task, less single task"]
    assert [line[0] for line in lines[2:]] == rows
    titles = ["digit accuracy (%)", "speaker accuracy (%)", "name error rate (%)"]
    assert lines[0] == ["method", *titles, "minutes a seed"]


def test_everything_lies_in_one_folder(result):
    names = {path.name for path in result["folder"].iterdir()}
    assert names == {"results.json", "spoken_digits.png", "table.md"}
    (run,) = json.loads((result["folder"] / "results.json").read_text())
    score = run["multi-task"]["digit_accuracy"]
    assert 0 <= score <= 100
    # One of 20 test clips is 5 %; the metric is a float32.
    assert score == pytest.approx(5 * round(score / 5), abs=1e-4)


def test_held_out_speakers_are_tested_in_a_table_of_their_own(
    spoken_digits, clips, recordings, workplace, monkeypatch
):
    tested = []

    def run_seed(study, tasks, baselines):
        tested.append({clips[row].speaker for row in study.split["test"]})
        model = spoken_digits.keras_mtl.architectures.hard_sharing(
            keras.Input((None, 40)), spoken_digits.make_trunk(), tasks
        )
        row = {"digit_accuracy": 50.0, "minutes": 0.0}
        assert list(baselines) == ["digit"]
        return {"single task": row, "multi-task": row}, model

    monkeypatch.setattr(spoken_digits, "run_seed", run_seed)
    command = ["--data", str(recordings), "--quick", "--hold-out", "--seeds", "2"]
    outcome = spoken_digits.main(command)
    assert sorted(map(min, tested)) == sorted(map(max, tested)) == ["ann", "bob"]
    assert outcome["folder"].name == "spoken_digits_hold_out"
    assert outcome["table"].splitlines()[0] == "| method | digit accuracy (%) | minutes a seed |"
    assert list(outcome["rows"]) == ["single task", "multi-task"]


def test_clips_are_read_with_what_their_names_say(clips):
    clip = next(c for c in clips if (c.digit, c.speaker, c.number) == (7, "bob", 3))
    np.testing.assert_array_equal(clip.waveform, (tone(7, 3) / 2**15).astype("float32"))
    assert len(clips) == 48


def test_a_tar_file_is_read_as_its_folder_is(spoken_digits, clips, recordings, tmp_path):
    with tarfile.open(tmp_path / "fsdd.tar", "w") as archive:
        archive.add(recordings, "recordings")
        archive.addfile(tarfile.TarInfo("README.md"), io.BytesIO())
    from_tar = spoken_digits.fsdd.read_clips(tmp_path / "fsdd.tar")
    key = lambda clip: (clip.digit, clip.speaker, clip.number)  # noqa: E731
    for one, other in zip(sorted(from_tar, key=key), sorted(clips, key=key), strict=True):
        assert key(one) == key(other)
        np.testing.assert_array_equal(one.waveform, other.waveform)


def test_rows_by_name_are_the_same_clips(spoken_digits):
    import tensorflow_datasets as tfds

    def examples(self, **arguments):
        del self, arguments
        audio = tf.constant([[-(2**15), 0, 2**14]], "int64")
        rows = {"audio": audio, "label": [7], "audio/filename": ["7_ann_32.wav"]}
        return tf.data.Dataset.from_tensor_slices(rows)

    with tfds.testing.mock_data(as_dataset_fn=examples):
        (clip,) = spoken_digits.fsdd.read_tfds()
    assert (clip.digit, clip.speaker, clip.number) == (7, "ann", 32)
    np.testing.assert_array_equal(clip.waveform, [-1, 0, 0.5])


SOUND = wav(tone(1, 0))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("1_ann_0.wav", b"ID3 not a wav", r"1_ann_0\.wav is no wav file that can be read"),
        ("1_ann_0.wav", SOUND[:20], r"1_ann_0\.wav is no wav file that can be read"),
        ("1_ann_0.wav", b"", r"1_ann_0\.wav is no wav file that can be read"),
        ("1_ann_0.wav", wav([1, 2], rate=16000), r"1_ann_0\.wav must have .* has \(1, 16, 16000\)"),
        ("1_ann_0.wav", wav([1, 2], channels=2), r"1_ann_0\.wav must have .* has \(2, 16, 8000\)"),
        ("1_ann_0.wav", wav([1, 2], width=1), r"1_ann_0\.wav must have .* has \(1, 8, 8000\)"),
        ("1_ann_0.wav", wav([]), r"1_ann_0\.wav lasts 0 samples"),
        ("1_ann_0.wav", SOUND[:300], r"1_ann_0\.wav lasts 128 samples, .* at least 1024"),
        ("one_ann_0.wav", SOUND, r"one_ann_0\.wav: the name must be <digit>_<speaker>_<number>"),
        ("1_ann.wav", SOUND, r"1_ann\.wav: the name must be <digit>_<speaker>_<number>"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_name(
    spoken_digits, tmp_path, file, content, message
):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        spoken_digits.fsdd.read_clips(tmp_path)


def test_a_place_without_recordings_is_refused(spoken_digits, tmp_path):
    with pytest.raises(ValueError, match="holds no wav file"):
        spoken_digits.fsdd.read_clips(tmp_path)
    (tmp_path / "notes").write_text("no archive")
    with pytest.raises(ValueError, match="notes is neither a folder nor a tar file"):
        spoken_digits.fsdd.read_clips(tmp_path / "notes")


def test_recordings_without_a_split_are_refused_before_training(spoken_digits, tmp_path):
    (tmp_path / "1_ann_0.wav").write_bytes(SOUND)
    with pytest.raises(ValueError, match="none for train: numbers 0 to 4 are for test"):
        spoken_digits.main(["--data", str(tmp_path)])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["1_ann_5", "1_ann_10"], r"test on ann alone, .* for train, received none, .* \['ann'\]"),
        (["1_ann_5", "1_bob_10"], r"test on (ann|bob) alone, .* for (validation|train), .* 'bob'"),
        (["1_ann_5", "1_ann_10", "1_bob_0"], r"test on ann alone, .* add such clips of another"),
    ],
)
def test_a_speaker_without_whom_nothing_is_left_cannot_be_held_out(
    spoken_digits, tmp_path, files, message
):
    for file in files:
        (tmp_path / f"{file}.wav").write_bytes(SOUND)
    # Refused before a seed is trained, whichever of them it is that tests on this speaker.
    with pytest.raises(ValueError, match=message):
        spoken_digits.main(["--data", str(tmp_path), "--hold-out", "--seeds", "2"])


def test_a_held_out_speaker_needs_no_official_test_rows(spoken_digits):
    waveform = np.zeros(1024, "float32")
    clips = [
        spoken_digits.fsdd.Clip(1, speaker, number, waveform)
        for speaker in SPEAKERS
        for number in (5, 10)
    ]
    split = spoken_digits.fsdd.hold_out(clips, 0)
    assert {name: len(rows) for name, rows in split.items()} == {
        "train": 1,
        "validation": 1,
        "test": 2,
    }


def test_splits_are_the_official_ones_by_number(spoken_digits, clips):
    split = spoken_digits.fsdd.official_split(clips)
    numbers = {name: {clips[row].number for row in rows} for name, rows in split.items()}
    assert numbers == {"train": {10, 11}, "validation": {5, 6, 7, 8, 9}, "test": {0, 1, 2, 3, 4}}
    assert sorted(np.concatenate(list(split.values()))) == list(range(48))


def test_a_held_out_speaker_is_heard_in_the_test_only(spoken_digits, clips):
    held_out = []
    for seed in (0, 1, 2):
        split = spoken_digits.fsdd.hold_out(clips, seed)
        heard = {name: {clips[row].speaker for row in rows} for name, rows in split.items()}
        assert heard["train"] == heard["validation"] == set(SPEAKERS) - heard["test"]
        assert len(split["test"]) == 24  # all of the speaker's clips
        held_out += heard["test"]
    assert set(held_out[:2]) == set(SPEAKERS)
    assert held_out[2] == held_out[0]


def test_steps_hear_the_pitch(spoken_digits):
    pitched = [spoken_digits.fsdd.Clip(d, "ann", 0, tone(d, 0) / np.float32(2**15)) for d in (0, 7)]
    low, high = spoken_digits.fsdd.log_mel(pitched)
    assert low.shape == (9, 40)  # 1,100 samples, one step every 128
    # In mel, 2,595 log10(1 + f / 700), the bands lie 51.6 apart from 31.7 (20 Hz) on; so 402
    # (300 Hz) is nearest to the 7th band, and 1,389 (1,700 Hz) to the 26th.
    assert (low[4].argmax(), high[4].argmax()) == (6, 25)


def test_features_are_scaled_by_training_rows_alone(spoken_digits):
    steps = [np.full((2, 40), 1.0), np.full((2, 40), 3.0), np.full((1, 40), 100.0)]
    scaled = spoken_digits.standardise(steps, [0, 1])
    assert [clip[0, 0] for clip in scaled] == [-1, 1, 98]


def test_labels_are_numbered_and_spelt(spoken_digits, clips):
    labels = spoken_digits.make_labels(clips)
    row = next(i for i, c in enumerate(clips) if (c.digit, c.speaker) == (7, "bob"))
    assert (labels["digit"][row], labels["speaker"][row]) == (7, 1)
    assert spoken_digits.TRANSCRIPTION.texts(labels["name"])[row] == "seven"


def test_augmented_clips_are_others_but_long_enough_to_be_spelt(spoken_digits):
    rng = np.random.default_rng(0)
    steps = rng.normal(size=(9, 40)).astype("float32")  # the shortest clip of the data
    clips = [spoken_digits.augment(steps, rng) for _ in range(200)]
    lengths = {len(clip) for clip in clips}
    assert min(lengths) >= 6  # three: five letters, and a blank between two that are equal
    assert len(lengths) > 4
    assert {clip.dtype.name for clip in clips} == {"float32"}
    silent = np.array([np.all(clip == 0, axis=0) for clip in clips])
    assert set(silent.sum(axis=1)) == set(range(9))  # never all: that would be taken for padding
    assert silent.any(axis=0).all()  # the first and the last band as any other


def test_batches_pad_with_zeros_and_only_training_changes_clips(spoken_digits):
    steps = [np.full((length, 40), length, "float32") for length in range(9, 49)]
    labels = {"digit": np.arange(40)}
    x, y = next(iter(spoken_digits.make_batches(steps, labels, np.arange(40))))
    assert x.shape == (32, 40, 40)
    np.testing.assert_array_equal(x[0, :, 0], [9] * 9 + [0] * 31)
    np.testing.assert_array_equal(y["digit"], np.arange(32))
    rng = np.random.default_rng(0)
    training = spoken_digits.make_batches(steps, labels, np.arange(40), rng)
    first, second = ([y["digit"].numpy() for _, y in training] for _ in range(2))
    assert len(training) == 2
    assert sorted(np.concatenate(first)) == list(range(40))
    assert not np.array_equal(np.concatenate(first), np.concatenate(second))


def test_padding_changes_no_prediction(spoken_digits):
    keras.utils.set_random_seed(0)
    tasks = spoken_digits.make_tasks(2)
    trunk = spoken_digits.make_trunk()
    inputs = keras.Input((None, 40))
    model = spoken_digits.keras_mtl.architectures.hard_sharing(inputs, trunk, tasks)
    clip = np.random.default_rng(0).normal(size=(1, 12, 40)).astype("float32")
    alone = model(clip)
    padded = model(np.pad(clip, ((0, 0), (0, 7), (0, 0))))
    for task in ("digit", "speaker"):
        np.testing.assert_allclose(padded[task], alone[task], atol=1e-5)
    np.testing.assert_allclose(padded["name"][:, :12], alone["name"], atol=1e-5)
    np.testing.assert_allclose(padded["name"][0, 12:, 0], 1, rtol=1e-6)  # padding says nothing


def test_measures_are_percentages_of_test_rows(spoken_digits):
    class Answers:
        """A model that gives the same answers to all rows."""

        output = dict.fromkeys(["digit", "name"])

        def evaluate(self, batches, **arguments):
            rows = sum(len(x) for x, _ in batches)
            return {"loss": 1.0, "digit_accuracy": rows / 4, "name_error_rate": 0.25}

    labels = {"digit": np.arange(4), "name": np.ones((4, 3), "int32")}
    split = {"test": np.array([1, 2])}
    study = spoken_digits.Study([np.ones((9, 40))] * 4, labels, split, 1, 0)
    values = spoken_digits.measure(study, Answers())
    assert values == {"digit_accuracy": 50, "name_error_rate": 25}
