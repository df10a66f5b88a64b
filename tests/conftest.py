"""One set-up for all tests: a quiet TensorFlow, fixed seeds, two devices on any machine."""

import contextlib
import gc
import os

import pytest

# Before the import: TensorFlow reads these once.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # test workers share one GPU
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("MPLBACKEND", "Agg")


@contextlib.contextmanager
def _silent_stderr():
    """Silences file descriptor 2: while it loads, TensorFlow heeds no log level."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


with _silent_stderr():
    import keras
    import tensorflow as tf
    from tensorflow.python.framework.ops import gradient_registry

# What the imports have made stays: collecting garbage need not look at it each time.
gc.freeze()

# Two logical CPUs stand in for two GPUs. It must happen before the first operation runs.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration(), tf.config.LogicalDeviceConfiguration()],
)


# Of the last training steps traced, so that collecting garbage costs little.
KEPT_GRADIENTS = 30


@pytest.fixture(autouse=True)
def _seeded():
    """Every test starts from the same random state, whichever tests ran before it."""
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def _graphs_freed():
    """Keeps a worker from holding every graph that its tests have traced: 40 MB a test.

    TensorFlow registers the gradient of each `tf.custom_gradient` in a graph for good, and the
    `all_reduce` of every Keras optimizer is one: no traced training step is ever let go.
    """
    yield
    registered = gradient_registry._registry
    leaked = [name for name in registered if name.startswith("CustomGradient-")]
    if len(leaked) > KEPT_GRADIENTS:
        for name in leaked:
            del registered[name]
        gc.collect()


@pytest.fixture(scope="session")
def strategy():
    """Two replicas on one machine; one for all tests, since a process can hold only one."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
