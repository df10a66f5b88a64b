"""Measures what a training step needs in memory beyond plain Keras, in gradients of the trunk.

    python benchmarks/memory.py --tasks 2 4 8
    python benchmarks/memory.py --tasks 4 --methods mgda:parameters moco:parameters
    python benchmarks/memory.py --tasks 4 --width 1024 --layers 32 --batch 512

Each method takes a few steps on a wide network in a process of its own; the peak of the resident
memory is compared with that of plain Keras. Printed is the difference, divided by the size of one
gradient of the shared variables. With many rows in a batch no method goes by activations. Methods
are named as in `step_cost.py`.

The processes take memory from the system as they ask for it and give it back at once. As it comes,
TensorFlow on a CPU takes it in regions, each twice the size of the last, which measures these.
"""

import argparse
import os
import resource
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import step_cost

import keras_mtl


def gradient_mb(width: int, layers: int) -> float:
    """Returns the size of one gradient of the trunk in MB."""
    return 4 * layers * width * (width + 1) / 2**20


def build(cls: type, num_tasks: int, width: int, layers: int, **roles: object) -> keras.Model:
    """Builds a trunk of equal dense layers and one small head a task."""
    inputs = features = keras.Input((width,))
    for _ in range(layers):
        features = keras.layers.Dense(width, activation="relu")(features)
    outputs = {f"task{i}": keras.layers.Dense(1)(features) for i in range(num_tasks)}
    return cls(inputs, outputs, **roles)


def train(method: str, num_tasks: int, width: int, layers: int, batch: int) -> None:
    """Takes three steps and prints the peak of the resident memory in MB."""
    plain = method == step_cost.PLAIN
    arguments = {} if plain else step_cost.parse_method(method)
    cls = keras.Model if plain else keras_mtl.MultiTaskModel
    model = build(cls, num_tasks, width, layers, **step_cost.roles_for(arguments, num_tasks))
    # Plain descent: an optimizer with slots would hide the gradients behind its own memory.
    losses = {f"task{i}": "mse" for i in range(num_tasks)}
    model.compile(keras.optimizers.SGD(1e-4), losses, **arguments)
    x = keras.random.normal((batch, width), seed=0)
    y = {f"task{i}": keras.random.normal((batch, 1), seed=1) for i in range(num_tasks)}
    for _ in range(3):
        model.train_on_batch(x, y)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)


# The allocator of the system, and blocks of any size returned to it when they are freed.
FROM_THE_SYSTEM = {"TF_ONEDNN_USE_SYSTEM_ALLOCATOR": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}


def peak(method: str, num_tasks: int, width: int, layers: int, batch: int) -> float:
    """Returns the peak in MB, of a process of its own."""
    sizes = [f"--tasks={num_tasks}", f"--width={width}", f"--layers={layers}", f"--batch={batch}"]
    command = [sys.executable, __file__, "--train", method, *sizes]
    environment = os.environ | FROM_THE_SYSTEM
    done = subprocess.run(  # noqa: S603
        command, capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode:
        raise RuntimeError(f"{method} with {num_tasks} tasks failed:\n{done.stderr[-3000:]}")
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--methods", nargs="+", default=step_cost.all_methods()[1:])
    parser.add_argument("--width", type=int, default=2048, help="of each layer of the trunk")
    parser.add_argument("--layers", type=int, default=8, help="number of layers of the trunk")
    parser.add_argument("--batch", type=int, default=32, help="rows of a batch")
    parser.add_argument("--train", metavar="METHOD", help=argparse.SUPPRESS)
    args = parser.parse_args()
    sizes = args.width, args.layers, args.batch
    if args.train:
        train(args.train, args.tasks[0], *sizes)
        return
    unit = gradient_mb(args.width, args.layers)
    for num_tasks in args.tasks:
        plain = peak(step_cost.PLAIN, num_tasks, *sizes)
        print(f"\n{num_tasks} tasks: plain Keras {plain:.0f} MB, a gradient {unit:.0f} MB")
        for method in args.methods:
            more = (peak(method, num_tasks, *sizes) - plain) / unit
            print(f"  {method:34s} {more:+6.2f} gradients", flush=True)


if __name__ == "__main__":
    main()
