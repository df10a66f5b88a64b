"""Two workers on loopback give what one process gives; stock Keras 3 cannot run them at all."""

import importlib.util
import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

PROGRAM = pathlib.Path(__file__).parent / "multi_worker_program.py"
TIMEOUT = 280  # seconds, for a busy machine; it takes about 20 on two free cores
# Sums in another order; float32 keeps 1e-7, twelve steps multiply it.
REORDERED = 1e-5


def _load_program():
    spec = importlib.util.spec_from_file_location("multi_worker_program", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


program = _load_program()


def _free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def _start(cluster, index, path):
    task = {"type": "worker", "index": index}
    return subprocess.Popen(
        [sys.executable, PROGRAM, path],
        env={
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "-1",
            "TF_CONFIG": json.dumps({"cluster": {"worker": cluster}, "task": task}),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """The results of both workers, by case."""
    paths = [tmp_path_factory.mktemp("workers") / f"{index}.json" for index in range(2)]
    cluster = [f"127.0.0.1:{port}" for port in _free_ports(len(paths))]
    running = [_start(cluster, index, path) for index, path in enumerate(paths)]
    try:
        errors = [process.communicate(timeout=TIMEOUT)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    for process, error in zip(running, errors, strict=True):
        assert process.returncode == 0, error[-3000:]
    return [json.loads(path.read_text()) for path in paths]


@pytest.mark.parametrize("case", program.CASES)
def test_two_workers_equal_one_process(workers, case):
    expected = program.run(case, tf.distribute.get_strategy())
    for results in workers:
        found = results[case]
        # Names of layers count up; the order is that of one and the same program.
        assert len(found) == len(expected)
        for (name, number), other in zip(found.items(), expected.values(), strict=True):
            np.testing.assert_allclose(number, other, rtol=REORDERED, atol=REORDERED, err_msg=name)


def test_a_batch_that_is_not_finite_on_one_worker_is_skipped_on_both(workers):
    for results in workers:
        assert results["skip"]["history skipped_updates"] == [1.0, 1.0, 1.0, 1.0]


def test_weights_from_epochs_move_on_both_workers(workers):
    for results in workers:
        weights = results["epochs"]["history size_weight"]
        assert weights[:2] == [1.0, 1.0]
        assert weights[3] != 1.0
