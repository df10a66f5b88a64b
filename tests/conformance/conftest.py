"""Runs every conformance test on every method there is."""

import pathlib
import sys

# Support modules beside the tests: with `importlib` mode pytest adds no directory by itself.
sys.path.insert(0, str(pathlib.Path(__file__).parent))

import conformance_support as support
import pytest
import tensorflow as tf

HERE = pathlib.Path(__file__).parent


def _all_cases():
    return {**support.weighting_cases(), **support.balancing_cases()}


def _in_default_run(argument, name):
    # A claim on the step is proven once for each way through it, so on the methods that together
    # declare all there is to declare; one on the method, for each method in one of its scopes.
    # What is dear, as XLA and replicas are, on one of them for a weighting and each scope of a
    # balancing. The slow sweep runs all on all.
    if argument == "dear_case":
        return name in support.richest()
    of_method = argument != "deep_case" and not name.endswith("-features")
    return of_method or name in support.representatives()


# What a test takes: its methods, and, for "deep_case" and "dear_case", that it holds for a step,
# not a method.
CASES = {
    "weighting_case": support.weighting_cases,
    "balancing_case": support.balancing_cases,
    "case": _all_cases,
    "deep_case": _all_cases,
    "dear_case": _all_cases,
}


def pytest_generate_tests(metafunc):
    for argument, cases in CASES.items():
        if argument in metafunc.fixturenames:
            metafunc.parametrize(
                argument, [_parameter(argument, *item) for item in cases().items()]
            )


def _parameter(argument, name, case):
    # Names the method, by which the tests are put in order.
    marks = [pytest.mark.xdist_group(name)]
    if not _in_default_run(argument, name):
        marks.append(pytest.mark.slow)
    return pytest.param(case, id=name, marks=marks)


def _method(item):
    """Returns the id of the method that an item is about, empty if about none."""
    groups = [mark.args[0] for mark in item.iter_markers("xdist_group")]
    return groups[0] if groups and HERE in item.path.parents else ""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    # Method by method, so that the runs of one can be forgotten before the next.
    items.sort(key=_method)


@pytest.fixture(autouse=True)
def _plain_graphs(request):
    """Optimizes graphs for the representatives only: it takes a third of the time of a test."""
    optimized = _method(request.node) in support.representatives()
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": not optimized})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})
