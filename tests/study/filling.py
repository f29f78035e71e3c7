"""A database of evaluations, filled by hand."""

import hashlib

from esper.study.evaluate.database import Evaluations, Measured

CONFIG = {"task": {"name": "digits"}}
SUITE = "c" * 64


def fill(path, results, sha256="a" * 64, policy="heuristic", config=CONFIG, run=None, suite="default", epoch=25):
    """Write results of one version under one suite; their numbers. run: the path of the run that has it."""
    with Evaluations(path) as database:
        version = database.add_version(sha256, "b" * 64, policy, config)
        if run is not None:
            database.add_source(version, run, epoch, run)
        suite = database.add_suite(SUITE if suite == "default" else sha(suite), suite, {"name": suite})
        for measured in results:
            database.add(version, suite, measured)
    return version, suite


def sha(text):
    """Sixty-four digits that no other text has."""
    return hashlib.sha256(text.encode()).hexdigest()


def finished(seed, *values):
    return Measured(seed, {"test_accuracy": values}, 0.5)


def failed(seed, error="no memory"):
    return Measured(seed, {}, 0.5, error)
