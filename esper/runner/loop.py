"""The loop of a run: learn a policy, grow the population by it, test what came of it."""

import time
from collections.abc import Sequence

from esper.engine.epoch import EpochRunner
from esper.runner.run import Run
from esper.runner.stop import StopRequest


def fit(runs: Sequence[Run], stop: StopRequest) -> None:
    """Bring runs that share a population to their last epoch, or until asked to stop.

    What goes wrong with one of them is kept in its `error`, and stops no other.
    """
    epochs = EpochRunner([run.growth for run in runs])
    started = time.perf_counter()
    untrained = epochs.reports()
    wall_s = time.perf_counter() - started
    for run in runs:
        run.learn(stop)
    if not stop:
        for run, reports in zip(runs, untrained, strict=True):
            run.on_fit_start(reports, wall_s)
        while not (epochs.done or stop or all(run.error for run in runs)):
            started = time.perf_counter()
            results = epochs.step([run.act() for run in runs])
            wall_s = time.perf_counter() - started
            for run, (reports, events) in zip(runs, results, strict=True):
                run.on_epoch_end(reports, events, wall_s)
        if epochs.done and not all(run.error for run in runs):
            for run, scores in zip(runs, epochs.test(), strict=True):
                run.on_fit_end(scores)
    for run in runs:
        run.save()
