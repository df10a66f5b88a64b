"""The benchmark against the peers pairs the same methods and reads its figures right."""

import importlib
import pathlib
import sys

import pytest

import keras_mtl

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def peers():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("peers")


@pytest.fixture(scope="module")
def methods(peers):
    return peers.peers_methods


def test_every_row_is_a_method_that_runs_here_in_its_scope(methods):
    rows = methods.rows([])
    assert {name for name, _, _ in rows} == {*methods.TORCHJD, *methods.LIBMTL}
    for name, scope, _ in rows:
        balancing = type(keras_mtl.balancing.get(name))(scope=scope)
        assert balancing.scope == scope


def test_rows_by_name_and_by_scope(methods):
    assert methods.rows([("mgda", "")]) == [
        ("mgda", "features", "libmtl"),
        ("mgda", "parameters", "libmtl"),
        ("mgda", "parameters", "torchjd"),
    ]
    assert methods.rows([("mgda", "features")]) == [("mgda", "features", "libmtl")]


@pytest.mark.parametrize("wanted", [("pcgard", ""), ("upgrad", "features")])
def test_method_that_no_peer_has_is_an_error_with_the_list(methods, wanted):
    with pytest.raises(ValueError, match=r"No peer has .*upgrad:parameters"):
        methods.rows([wanted])


def test_programs_take_turns_and_each_goes_first(peers):
    order = []

    def program(name):
        return lambda steps: order.append(name) or 0.5

    names = ["ours", "keras", "torch", "peer"]
    times = peers.interleaved({name: program(name) for name in names}, rounds=4, steps=5)
    assert [order[4 * turn] for turn in range(4)] == names
    assert all(sorted(order[i : i + 4]) == sorted(names) for i in range(0, 16, 4))
    assert times == {name: [100.0] * 4 for name in names}  # 0.5 s for 5 steps


def test_summary_is_of_ratios_within_a_round(peers):
    # The machine is twice as slow in the second round, and the ratios are what they were.
    times = {"ours": [20.0, 40.0], "keras": [10.0, 20.0], "torch": [15, 30], "peer": [60, 120]}
    found = peers.summary(times)
    assert found["ours_over_plain"] == 2.0
    assert found["peer_over_plain"] == 4.0
    assert found["times_faster"] == 3.0
    assert found["interval"] == (3.0, 3.0)
    assert (found["ours_ms"], found["peer_ms"]) == (30.0, 90.0)


def test_interpreter_without_the_peers_is_named(peers, tmp_path):
    # `-S` and an empty folder: an interpreter that has nothing installed.
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(RuntimeError, match="have torch and the peers"):
        peers.Peer(str(bare), {"library": "plain"})
