"""Measuring what was stored: new hosts grown on held-out seeds, or stored hosts on distorted inputs."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from esper.builders.population import build_growths
from esper.checks import spelled
from esper.config.root import RunConfig
from esper.config.suite import HostSuite
from esper.engine.epoch import EpochRunner
from esper.engine.growth import Growth
from esper.engine.scores import Scores, test_figures
from esper.errors import EngineError
from esper.leyline import EpochReport, TelemetryEvent
from esper.runner.records import SEED_EVENTS, count_seeds
from esper.study.evaluate.stored import Stored
from esper.tasks import Task
from esper.tasks.distortion import distort
from esper.tasks.settings import DistortionStrength
from esper.tasks.task import named_generator

Samples = Mapping[str, Sequence[float]]  # metric -> a value a member


def grow(stored: Stored, configs: Sequence[RunConfig]) -> list[Samples]:
    """Grow the hosts of all configurations to the end, in one population, and measure them.

    Raises EsperError where something does not fit.
    """
    grown = build_growths(configs)
    controllers = [stored.controller(config, one) for config, one in zip(configs, grown, strict=True)]
    growths = [one.local_growth for one in grown]
    accounts = [_Account(growth) for growth in growths]
    epochs = EpochRunner(growths)
    reports = epochs.reports()
    while not epochs.done:
        actions = [controller.act(seen) for controller, seen in zip(controllers, reports, strict=True)]
        stepped = epochs.step(actions)
        reports = [seen for seen, _ in stepped]
        for account, (_, events) in zip(accounts, stepped, strict=True):
            account.add(events)
    scores = epochs.test()
    return [account.samples(tested) for account, tested in zip(accounts, scores, strict=True)]


def score_hosts(growth: Growth, suite: HostSuite, seed: int) -> Samples:
    """The grown members of a growth that trains alone, on the test split as this seed distorts it.

    Raises EngineError where it cannot be distorted: it is neither text nor square images.
    """
    task, generator = growth.task, named_generator(seed, "evaluation/distortion")
    if not task.is_text and (task.inputs != "images" or task.input_shape[1] != task.input_shape[2]):
        shape = spelled(list(task.input_shape))
        raise EngineError(
            f"task={task.name}: a suite distorts text and square images, and these are {task.inputs} {shape}"
        )
    distorted = _replaced(task, suite, generator) if task.is_text else _moved(task.test_x, suite, generator)
    scores = growth.population.parent.evaluate(distorted, task.test_y)[0]
    return _scored(growth, scores) | _sizes(growth.reports()[: growth.grown])


def check_finite(samples: Samples) -> None:
    """Raises EngineError naming a metric and a host whose value is no number."""
    for metric, values in samples.items():
        for member, value in enumerate(values):
            if not math.isfinite(value):
                raise EngineError(f"{metric} of host {member} is {value}: its training went wrong")


class _Account:
    """What is counted of a growth's members while they grow."""

    def __init__(self, growth: Growth) -> None:
        self.growth = growth
        self.seeds: list[dict[str, int]] = [count_seeds((), {})] * growth.grown

    def add(self, events: Sequence[TelemetryEvent]) -> None:
        """One epoch."""
        for member in range(self.growth.grown):
            self.seeds[member] = count_seeds([event for event in events if event.member == member], self.seeds[member])

    def samples(self, tested: Scores) -> Samples:
        """All that is known at the end."""
        reports = self.growth.reports()
        return (
            _scored(self.growth, tested)
            | {f"val_{self.growth.task.score.name}": [report.val_accuracy for report in reports]}
            | _sizes(reports)
            | {"training_flops": [report.training_flops for report in reports]}
            | {name: [float(counts[name]) for counts in self.seeds] for name in SEED_EVENTS.values()}
        )


def _scored(growth: Growth, scores: Scores) -> dict[str, list[float]]:
    return {name: values[: growth.grown] for name, values in test_figures(growth.task, scores).items()}


def _sizes(reports: Sequence[EpochReport]) -> dict[str, list[float]]:
    return {"parameters": [float(report.parameter_count) for report in reports]}


def _moved(images: Tensor, suite: HostSuite, generator: torch.Generator) -> Tensor:
    """Standardised images [N, C, H, W], distorted; what enters from outside has the colour of the image's border."""
    strength = DistortionStrength(
        rotation_degrees=suite.rotation_degrees,
        scale_range=(suite.scale_range[0], suite.scale_range[1]),
        shift_pixels=suite.shift_pixels,
        noise_std=suite.noise_std,
    )
    edges = (images[..., 0, :], images[..., -1, :], images[..., :, 0], images[..., :, -1])
    border = torch.cat(edges, dim=-1).median(dim=-1).values[..., None, None]  # [N, C, 1, 1]
    moved = distort((images - border).float(), strength, images.shape[-1], generator)
    return moved.to(images.dtype) + border


def _replaced(task: Task, suite: HostSuite, generator: torch.Generator) -> Tensor:
    """The test split's tokens [N, T], of which a share is drawn anew."""
    tokens = task.test_x
    is_replaced = (torch.rand(tokens.shape, generator=generator) < suite.replaced_share).to(tokens.device)
    drawn = torch.randint(task.num_outputs, tokens.shape, generator=generator).to(tokens.device)
    return torch.where(is_replaced, drawn, tokens)
