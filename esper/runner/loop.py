"""The loop of a run: learn a policy, grow the population by it, test what came of it."""

import time
from collections.abc import Callable, Sequence

from esper.engine.epoch import EpochRunner
from esper.runner.run import Run
from esper.runner.stop import StopRequest


def nothing(epoch: int) -> None:
    """Nobody is told of epochs."""


def fit(runs: Sequence[Run], stop: StopRequest, on_epoch: Callable[[int], None] = nothing) -> None:
    """Bring runs that share a population to their last epoch, or until asked to stop.

    on_epoch: is told how many epochs are done, before the first one that is trained here and after each.

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
        on_epoch(runs[0].growth.epoch)
        while not (epochs.done or stop or all(run.error for run in runs)):
            started = time.perf_counter()
            results = epochs.step([run.act() for run in runs])
            wall_s = time.perf_counter() - started
            for run, (reports, events) in zip(runs, results, strict=True):
                run.on_epoch_end(reports, events, wall_s)
            on_epoch(runs[0].growth.epoch)
        if epochs.done and not all(run.error for run in runs):
            for run, scores in zip(runs, epochs.test(), strict=True):
                run.on_fit_end(scores)
    for run in runs:
        run.save()
