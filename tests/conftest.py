"""Which tests are fast, slow or contracts, and which of them have the machine to themselves."""

import fcntl
import os
import sys
from collections import defaultdict
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parent
SLOW_PLACES = {"e2e", "test_docs.py", "test_imports.py"}
SLOW_FIXTURES = {"compiled", "lab", "marked"}  # programs that train, in processes of their own, and torch.compile
os.environ["WANDB_MODE"] = "offline"  # a developer's login is not for tests
os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start: several tests run at once
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # they would compile all modules, each of them anew
sys.dont_write_bytecode = False  # and every session its tests
torch.set_num_threads(1)  # small tensors gain nothing from more, and on a busy machine threads wait for each other


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Runs set the number that suits them, and would leave it to all tests that follow."""
    yield
    torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is a contract or slow by its place, and of a long table all but a sample as slow; group what shares."""
    tables = defaultdict(list)
    for item in items:
        place = item.path.relative_to(TESTS).parts[0]
        if place == "contracts":
            item.add_marker("contract")
        is_slow = place in SLOW_PLACES or not SLOW_FIXTURES.isdisjoint(item.fixturenames)
        if is_slow and not item.get_closest_marker("fast"):
            item.add_marker("slow")
        shared = "nano_run" if "nano_run" in item.fixturenames else str(item.path.relative_to(TESTS))
        item.add_marker(pytest.mark.xdist_group(shared))  # one worker makes what these tests look at
        if item.get_closest_marker("sampled"):
            tables[item.nodeid.partition("[")[0]].append(item)
    for cases in tables.values():
        wanted = cases[0].get_closest_marker("sampled").args[0]
        sample = {number * len(cases) // wanted for number in range(wanted)}
        for number, item in enumerate(cases):
            if number not in sample:
                item.add_marker("slow")


@pytest.hookimpl(wrapper=True, tryfirst=True)  # a test's own time limit counts from when it is its turn
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Beside a test that is marked alone, no other worker of pytest-xdist runs one."""
    with turn(item.get_closest_marker("alone") is not None):
        return (yield)


@pytest.fixture(autouse=True)
def _uncovered(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where time is measured, coverage is not: processes that measure theirs take several times as long to start."""
    if request.node.get_closest_marker("alone"):
        monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)


@contextmanager
def turn(is_alone: bool) -> Iterator[None]:
    """Wait until nobody is alone, or for everybody; first come, first served. Two files are locked, and left alone."""
    with open(__file__) as door, open(TESTS / "__init__.py") as room:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if is_alone else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(room, fcntl.LOCK_UN)  # closing would not do where a child that was forked lives on
