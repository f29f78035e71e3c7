"""The loop of a run: learn a policy, grow the population by it, test what came of it."""

import time
from collections.abc import Callable, Sequence

from esper.builders.finals import build_finals
from esper.engine.epoch import EpochRunner
from esper.engine.scores import test_figures
from esper.leyline import WAIT
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
            tested = epochs.test()
            if train_finals(runs, stop):
                for run, scores in zip(runs, tested, strict=True):
                    run.on_fit_end(scores)
    for run in runs:
        run.save()


def train_finals(runs: Sequence[Run], stop: StopRequest) -> bool:
    """Train what members have grown into from scratch, where that is asked for; whether that is over, or was stopped.

    The final networks of all runs train as one program.
    """
    asking = [run for run in runs if run.config.finals and not run.error]
    if asking and stop:
        return False
    grown = [(run.config, run.growth.local_growth) for run in asking]
    for run, networks in zip(asking, build_finals(grown, asking[0].engine) if asking else [], strict=True):
        run.begin_finals(networks)
    growing = {run: run.finals.networks.growth for run in asking if run.finals.networks}
    if not growing:
        return True
    epochs = EpochRunner(list(growing.values()))
    epochs.reports()
    while not (epochs.done or stop or all(run.error for run in growing)):
        epochs.step([[WAIT] * len(growth.member_ids) for growth in growing.values()])
        for run in growing:
            run.on_final_epoch_end()
    if epochs.done:
        for run, scores in zip(growing, epochs.test(), strict=True):
            run.finals.scores = test_figures(run.growth.task, scores)
    return epochs.done
