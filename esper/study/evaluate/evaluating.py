"""Evaluating what a run has stored, seed by seed; what the database has already is not measured again."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from esper.checkpoint.plain import fingerprint
from esper.config.composing import to_plain
from esper.config.root import RunConfig
from esper.config.store import VOLATILE
from esper.config.suite import GrowthSuite, HostSuite, SuiteConfig
from esper.engine.growth import Growth
from esper.errors import EngineError, EsperError
from esper.printing import in_short
from esper.study.evaluate.database import Evaluations, Measured
from esper.study.evaluate.measuring import Samples, check_finite, grow, score_hosts
from esper.study.evaluate.stored import Stored


def evaluate(stored: Stored, suite: SuiteConfig, seeds: Sequence[int], database: Evaluations) -> Iterator[Measured]:
    """Measure these seeds one after another; each result is in the database before it is handed out.

    Raises EsperError at once, and writes nothing, where the suite does not fit what is stored at all: changes that are
    none of the run's configuration, hosts that were never trained.
    """
    sha256 = measured_as(stored, suite, database)
    results = _measure(stored, suite, seeds) if seeds else iter(())
    version = database.add_version(sha256, stored.tensors_sha256, stored.policy, to_plain(stored.config))
    database.add_source(version, stored.uid, stored.epoch, str(stored.run))
    number = database.add_suite(suite_sha256(suite), suite.name, suite.content())
    return _written(results, version, number, database)


def measured_as(stored: Stored, suite: SuiteConfig, database: Evaluations) -> str:
    """The sha256 of the version that this one's measurements are kept under: its own, or another's.

    A rule that grows new hosts decides by its configuration alone, so that of several versions of one rule, as of runs
    of several seeds, the first in the database stands for all.
    """
    if stored.is_rule and isinstance(suite, GrowthSuite):
        mine = _rule(to_plain(stored.config))
        for version in database.versions():
            if _rule(version["config"]) == mine:
                return str(version["sha256"])
    return stored.sha256


def _rule(config: Mapping[str, Any]) -> str:
    """All of a configuration that decides how a rule grows hosts; seeds and members are the suite's."""
    decisive = {key: value for key, value in config.items() if key not in (*VOLATILE, "seed", "controls", "reward")}
    engine = {key: value for key, value in dict(config.get("engine") or {}).items() if key not in ("members", "twins")}
    return fingerprint(decisive | {"engine": engine})


def suite_sha256(suite: SuiteConfig) -> str:
    """What tells suites apart: their name, and all that decides what is measured on a seed."""
    return fingerprint(suite.content())


def _written(results: Iterator[Measured], version: int, suite: int, database: Evaluations) -> Iterator[Measured]:
    for measured in results:
        database.add(version, suite, measured)
        yield measured


def _measure(stored: Stored, suite: SuiteConfig, seeds: Sequence[int]) -> Iterator[Measured]:
    match suite:
        case GrowthSuite():
            configs = [stored.configuration(suite, seed) for seed in seeds]
            engine = stored.config.engine
            # As many hosts at a time as the run had: Ctrl-C costs one such batch at most.
            at_once = max(1, engine.members * (1 + stored.config.has_twins) // suite.members)
            return _grow(stored, configs, at_once)
        case HostSuite():
            return _score(stored.hosts(), suite, seeds)
    raise TypeError(f"no suite: {suite!r}")


def _grow(stored: Stored, configs: Sequence[RunConfig], at_once: int) -> Iterator[Measured]:
    for first in range(0, len(configs), at_once):
        batch = configs[first : first + at_once]
        began = time.monotonic()
        try:
            found = grow(stored, batch)
        except Exception as error:
            if len(batch) > 1:  # whose fault it is shows when each grows alone
                yield from _grow(stored, batch, 1)
            else:
                yield Measured(batch[0].seed, {}, time.monotonic() - began, _said(error))
            continue
        wall_s = (time.monotonic() - began) / len(batch)
        for config, samples in zip(batch, found, strict=True):
            yield _measured(config.seed, samples, wall_s)


def _score(growth: Growth, suite: HostSuite, seeds: Sequence[int]) -> Iterator[Measured]:
    for seed in seeds:
        began = time.monotonic()
        try:
            samples = score_hosts(growth, suite, seed)
        except Exception as error:
            yield Measured(seed, {}, time.monotonic() - began, _said(error))
        else:
            yield _measured(seed, samples, time.monotonic() - began)


def _measured(seed: int, samples: Samples, wall_s: float) -> Measured:
    try:
        check_finite(samples)
    except EngineError as error:
        return Measured(seed, {}, wall_s, str(error))
    return Measured(seed, samples, wall_s)


def _said(error: Exception) -> str:
    return in_short(str(error) if isinstance(error, EsperError) else f"{type(error).__name__}: {error}")
