"""The searches for mixtures: NSGA-II and, at equal evaluations from the same start, random ones."""

from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from esper.forge.experts.config import ExpertsConfig
from esper.forge.experts.mixing import MOST_STEPS, REFERENCE, MixtureAims, random_points
from esper.forge.experts.nsga2 import Evaluated, hypervolume, nsga2
from esper.forge.phase import PhaseContext
from esper.tasks.task import named_generator

ETA = 1.0  # of crossover and mutation: on so coarse a grid, what stays close stays where it was


@dataclass(frozen=True, slots=True)
class SearchReport:
    """mixtures: the chosen ones, see `MixtureAims.choose`."""

    mixtures: Tensor
    metrics: dict[str, float]


def search_mixtures(aims: MixtureAims, config: ExpertsConfig, context: PhaseContext) -> SearchReport:
    """Search with several seeds, each beside random search. Raises Interrupted where that is asked for."""
    metrics: dict[str, float] = {}
    volumes: dict[str, list[float]] = {"nsga2": [], "random": []}
    searches = []
    for seed in range(config.search_seeds):
        context.progress(seed, config.search_seeds, "searching mixtures")
        start = aims.first_population(config.population, context.seed, f"population/{seed}")
        generator = named_generator(context.seed, f"experts/nsga2/{seed}")
        found = nsga2(aims, start, config.generations, generator, MOST_STEPS, ETA, ETA)
        searches.append(found)
        generator = named_generator(context.seed, f"experts/random/{seed}")
        drawn = random_points(len(found.points) - len(start), start.shape[1], generator)
        points = torch.cat((start, drawn))
        for name, search in {"nsga2": found, "random": Evaluated(points, aims(points))}.items():
            volume = hypervolume(search.aims, REFERENCE)
            volumes[name].append(volume)
            metrics[f"hypervolume/{name}_{seed}"] = volume
        aims.keep()
    medians = {name: median(found) for name, found in volumes.items()}
    metrics |= {f"hypervolume/{name}": value for name, value in medians.items()}
    metrics["hypervolume_over_random"] = medians["nsga2"] - medians["random"]
    mixtures = aims.choose(searches)
    metrics["active_experts"] = aims.active(mixtures)
    return SearchReport(mixtures, metrics)
