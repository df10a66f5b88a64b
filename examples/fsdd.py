"""Reads the Free Spoken Digit Dataset: clips, features of what is heard, and splits.

The official test rows are recordings 0 to 4 of each digit and speaker; 5 to 9 are for validation.
"""

import dataclasses
import io
import re
import wave

import archives  # the file next to this one
import numpy as np
import tensorflow as tf
from keras import layers

import keras_mtl

SAMPLE_RATE = 8000
SHORTEST = 1024  # samples; "three" takes CTC six steps
BANDS = 40


@dataclasses.dataclass(frozen=True)
class Clip:
    """One recording, and what its file is called: digit, speaker and number."""

    digit: int
    speaker: str
    number: int
    waveform: np.ndarray


def name_parts(file):
    """Returns digit, speaker and number from a name such as `7_jackson_32.wav`."""
    match = re.fullmatch(r"(\d)_([^_]+)_(\d+)\.wav", file)
    if match is None:
        raise ValueError(f"{file}: the name must be <digit>_<speaker>_<number>.wav.")
    return int(match[1]), match[2], int(match[3])


def read_waveform(file, content):
    """Returns the samples of a wav file, from -1 to 1."""
    try:
        with wave.open(io.BytesIO(content)) as audio:
            form = (audio.getnchannels(), 8 * audio.getsampwidth(), audio.getframerate())
            samples = audio.readframes(audio.getnframes())
    except (wave.Error, EOFError) as error:
        raise ValueError(f"{file} is no wav file that can be read: {error!r}.") from error
    if form != (1, 16, SAMPLE_RATE):
        raise ValueError(f"{file} must have 1 channel of 16 bits at {SAMPLE_RATE} Hz, has {form}.")
    if len(samples) < 2 * SHORTEST:
        raise ValueError(
            f"{file} lasts {len(samples) // 2} samples, but must have at least {SHORTEST}."
        )
    return np.frombuffer(samples, "<i2").astype("float32") / 2**15


def read_clips(path):
    """Reads all recordings before anything is trained, so that a bad file is found at once."""
    clips = [
        Clip(*name_parts(file.name), read_waveform(file.name, content))
        for file, content in archives.read_files(path)
        if file.suffix == ".wav"
    ]
    if not clips:
        raise ValueError(f"{path} holds no wav file.")
    return clips


def read_tfds():
    """Reads the recordings that TensorFlow Datasets downloads; the file's name has the speaker.

    Its `spoken_digit` is version 1.0.9 of the data, with 2,500 clips of five speakers; later ones
    have six.
    """
    inputs = {"samples": "audio", "file": "audio/filename"}
    rows = keras_mtl.data.from_tfds(
        "spoken_digit", "train", inputs=inputs, targets={"digit": "label"}
    )
    return [
        Clip(*name_parts(x["file"].decode()), x["samples"].astype("float32") / 2**15)
        for x, _ in rows.as_numpy_iterator()
    ]


def log_mel(clips):
    """Returns the loudness of each clip in 40 bands of pitch, in steps of 16 ms, in decibels."""
    spectrogram = layers.MelSpectrogram(
        fft_length=256,
        sequence_stride=128,
        sampling_rate=SAMPLE_RATE,
        num_mel_bins=BANDS,
        min_power=1e-6,
    )
    one = tf.TensorSpec([None], "float32")  # traced once for clips of all lengths
    steps_first = tf.function(lambda samples: tf.transpose(spectrogram(samples)), [one])
    return [steps_first(clip.waveform).numpy() for clip in clips]


def official_split(clips):
    """Returns the rows of each split by the number of the recording."""
    numbers = np.array([clip.number for clip in clips])
    return {
        "train": np.flatnonzero(numbers >= 10),
        "validation": np.flatnonzero((numbers >= 5) & (numbers < 10)),
        "test": np.flatnonzero(numbers < 5),
    }


def check_splits(splits):
    """Raises where a split has no row, before anything is trained."""
    for split, rows in splits.items():
        if not len(rows):
            raise ValueError(
                f"The recordings have none for {split}: numbers 0 to 4 are for test, 5 to 9 for "
                "validation, and all others for training."
            )


def hold_out(clips, seed):
    """Returns the rows of each split, where all clips of one speaker are the test rows.

    Raises where the other speakers leave a split without a row.
    """
    speakers = [clip.speaker for clip in clips]
    count = len(set(speakers))
    # The order of the speakers is always the same, so each seed holds out another one.
    folds = keras_mtl.data.split_by_group(speakers, dict.fromkeys(range(count), 1 / count), seed=0)
    test = folds[seed % count]
    known = {split: np.setdiff1d(rows, test) for split, rows in official_split(clips).items()}
    for split in ("train", "validation"):
        if not len(known[split]):
            raise ValueError(
                f"To test on {speakers[test[0]]} alone, other speakers must have clips for "
                f"{split}, received none, of the speakers {sorted(set(speakers))}. Numbers 5 to 9 "
                "are for validation and those from 10 on for training: add such clips of another "
                "speaker, or train without `--hold-out`."
            )
    return {**known, "test": test}
