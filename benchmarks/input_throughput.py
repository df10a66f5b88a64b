"""Measures whether the input keeps up with the model: rows a second, and the cost to a step.

Two data sets of 28x28 images, a task each, are mixed for LeNet. First the rows a second that the
pipelines give alone; then steps of the model that draw their batches from the mixture against
steps that get one batch from memory again and again, in turn. A ratio of 1 means that the input
is ready whenever the model is. Both share the cores, so on a CPU the input's own work shows.

    python benchmarks/input_throughput.py
    python benchmarks/input_throughput.py --batch 64 --pairs 50
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator

from step_cost import lenet, median_interval, paired_ratios  # it also quiets TensorFlow

# isort: split
import keras
import numpy as np
import tensorflow as tf

import keras_mtl

CLASSES, SHUFFLED = 10, 1000


def data_sets(rows: int) -> dict[str, tf.data.Dataset]:
    """Returns two data sets of random images and classes, shuffled."""
    random = np.random.default_rng(0)
    arrays = {
        task: (random.random((rows, 28, 28, 1), "float32"), random.integers(0, CLASSES, rows))
        for task in ("first", "second")
    }
    return {
        task: tf.data.Dataset.from_tensor_slices(array).shuffle(min(rows, SHUFFLED), seed=0)
        for task, array in arrays.items()
    }


def pipelines(rows: int, batch: int) -> dict[str, tf.data.Dataset]:
    """Returns endless data sets of batches: of one data set as it is, and mixed."""
    sets = data_sets(rows)
    one = sets["first"].repeat().batch(batch, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    mixed = {
        f"mix by {by}": keras_mtl.data.mix(sets, batch_size=batch, by=by, seed=0).repeat()
        for by in ("row", "batch")
    }
    return {"one data set": one, **mixed}


def rows_a_second(dataset: tf.data.Dataset, batch: int, steps: int, repeats: int) -> float:
    """Returns the median rate at which a pipeline gives rows to a reader that does nothing."""
    iterator = iter(dataset)
    rates = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        for _ in itertools.islice(iterator, steps):
            pass
        rates.append(batch * steps / (time.perf_counter() - start))
    return statistics.median(rates[1:])  # the first fills the shuffles


def build() -> keras_mtl.MultiTaskModel:
    """Builds and compiles LeNet with a head for each data set's task."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((28, 28, 1), name="image")
    trunk = keras.Model(inputs, lenet(inputs))
    head = keras_mtl.heads.Classification(CLASSES)
    tasks = dict.fromkeys(("first", "second"), head)
    model = keras_mtl.architectures.hard_sharing(inputs, trunk, tasks)
    model.compile(keras.optimizers.Adam(1e-4))
    model.make_train_function()
    return model


def stepper(model: keras.Model, batches: Iterator) -> Callable[[int], float]:
    """Returns a function that runs a number of steps and tells how long they took."""

    def run(steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            logs = model.train_function(batches)
        float(logs["loss"])
        return time.perf_counter() - start

    run(3)  # traces
    return run


def cost(dataset: tf.data.Dataset, pairs: int, steps: int) -> tuple[list[float], float]:
    """Returns the ratios of steps from a pipeline to steps from memory, and seconds of these."""
    model = build()
    batches = iter(dataset)
    kept = tf.data.Dataset.from_tensors(next(batches)).repeat().prefetch(4)
    from_memory, from_pipeline = stepper(model, iter(kept)), stepper(model, batches)
    return paired_ratios(from_pipeline, from_memory, pairs, steps), from_memory(steps) / steps


def measure(rows: int, batch: int, pairs: int, steps: int) -> dict[str, tuple[float, float]]:
    """Prints, and returns, rows a second and the ratio of each pipeline."""
    found = {}
    for name, dataset in pipelines(rows, batch).items():
        rate = rows_a_second(dataset, batch, steps, repeats=max(3, pairs // 4))
        text, ratio = "", float("nan")
        if name.startswith("mix"):
            ratios, seconds = cost(dataset, pairs, steps)
            ratio, (low, high) = statistics.median(ratios), median_interval(ratios)
            text = (
                f"   a step costs {ratio:.3f} [{low:.3f}, {high:.3f}] of one from memory, "
                f"{batch / seconds:,.0f} rows/s"
            )
        print(f"{name:14s} {rate:10,.0f} rows/s{text}", flush=True)
        found[name] = rate, ratio
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=5000, help="rows of each data set")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=40, help="pairs (at least 2)")
    parser.add_argument("--steps", type=int, default=10, help="steps a block")
    args = parser.parse_args()
    measure(args.rows, args.batch, args.pairs, args.steps)


if __name__ == "__main__":
    main()
