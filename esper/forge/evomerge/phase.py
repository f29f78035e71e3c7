"""Phase 2: the specialists become one model again, and a better one than the trunk."""

import copy
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from esper.checkpoint.plain import to_json
from esper.errors import CheckpointError, ForgeError
from esper.files import read_object, write_atomic
from esper.forge.bundles import load_language_model, parent, save_language_model
from esper.forge.evomerge.candidates import fixed_merges, search_vectors, start_weight
from esper.forge.evomerge.config import STRATEGIES, EvomergeConfig
from esper.forge.evomerge.evaluating import MergeEvaluator, Windows, load_state, state_of, window_nats
from esper.forge.evomerge.family import Cognates, read_family
from esper.forge.evomerge.groups import group_names, layer_groups
from esper.forge.evomerge.methods import State
from esper.forge.evomerge.search import SearchResult, make_strategy, run_search
from esper.forge.phase import MODEL, PHASES, Gate, Interrupted, PhaseContext, PhaseResult, conclude
from esper.forge.training import LanguageTraining, even_text

CHECKPOINTS, CANDIDATES = "checkpoints", "candidates"
RANDOM, SOUP, CONTINUED = "random", "soup", "continued_trunk"


class Evomerge:
    """See `esper.forge.phase.Phase`. It reads the folder of cognate: a trunk and its specialists."""

    name = "evomerge"

    def __init__(self, config: EvomergeConfig, context: PhaseContext) -> None:
        self._config, self._context = config, context

    @property
    def gates(self) -> Sequence[Gate]:
        """The champion predicts better than the trunk and the soup, and searching better than chance."""
        return (
            Gate("bits_below_trunk", "at_least", self._config.min_bits_below_trunk),
            Gate("bits_below_soup", "at_least", self._config.min_bits_below_soup),
            Gate("search_bits_below_random", "at_least", 0.0),
        )

    def check(self, input: Path | None) -> None:
        """See `Phase.check`."""
        self._family(input)

    def run(self, input: Path | None, output: Path) -> PhaseResult:
        """See `Phase.run`."""
        started = time.monotonic()
        family = self._family(input)
        trunk = state_of(family.trunk.host)
        experts = [state_of(model.host) for model in family.specialists.values()]
        groups = layer_groups(trunk)
        evaluator = MergeEvaluator(
            family.trunk.host,
            trunk,
            search_vectors(self._config, trunk, experts, self._context.seed),
            groups,
            self._windows("val", self._config.search_windows),
        )
        weight = start_weight(self._config, len(experts))
        start = torch.full((len(experts) * len(group_names(groups)),), weight, dtype=torch.float64)
        found = self._search(evaluator, start, output)
        merges = fixed_merges(self._config, trunk, experts, groups, self._context.seed)
        merges |= {name: evaluator.merged(result.best) for name, result in found.items()}
        metrics, champion = self._select(merges, family)
        paths = {
            name: self._save(output / CANDIDATES / name, self._network(family, state), family, metrics[f"{name}/val"])
            for name, state in merges.items()
        }
        paths[MODEL] = self._save(
            output / MODEL, self._network(family, merges[champion]), family, metrics[f"{champion}/val"]
        )
        if self._context.controls == "all":
            paths[CONTINUED] = self._continue_trunk(family, output)
        metrics |= self._measure(paths, family) | _weights(found.get(champion), list(family.specialists), groups)
        metrics["evaluations"] = next(iter(found.values())).evaluations
        self._context.notes.append(self._verdict(metrics, champion))
        return conclude(self.name, self.gates, metrics, paths, started)

    def _family(self, input: Path | None) -> Cognates:
        if input is None:
            raise ForgeError("evomerge: it merges what cognate has left; name its folder, as in input=RUN_DIR")
        return read_family(input, self._context.tokenizer)

    def _windows(self, split: str, count: int) -> Windows:
        corpus = self._context.corpus
        streams = {name: getattr(domain, split) for name, domain in corpus.domains.items()}
        return Windows.spread(streams, self._context.model.block_size, count, self._context.tokenizer.token_bytes)

    def _search(self, evaluator: MergeEvaluator, start: Tensor, output: Path) -> dict[str, SearchResult]:
        """Searches of all seeds, and as many random ones, at equal evaluations: name -> what it found."""
        strategies = STRATEGIES if self._context.controls == "all" else (self._config.strategy,)
        names = [(name, seed) for seed in range(self._config.search_seeds) for name in (*strategies, RANDOM)]
        total, found = len(names) * self._config.generations, {}
        for number, (name, seed) in enumerate(names):
            path = output / CHECKPOINTS / f"{name}_{seed}.json"

            def keep(
                history: list[list[float]], path: Path = path, done: int = number * self._config.generations
            ) -> bool:
                write_atomic(path, to_json({"history": history}).encode())
                step = len(history) - 1
                self._context.log(step, **{f"{path.stem}/bits_per_byte": min(map(min, history))})
                self._context.progress(done + step, total, path.stem)
                return not self._context.should_stop()

            strategy = make_strategy(
                name,
                start,
                sigma=self._config.sigma,
                population=self._config.population,
                seed=self._context.seed + seed,
            )
            history = _read_history(path)
            result = run_search(strategy, start, evaluator.fitness, self._config.generations, history, keep)
            if len(result.history) <= self._config.generations:
                raise Interrupted(path.stem)
            found[path.stem] = result
        assert len({result.evaluations for result in found.values()}) == 1, "searches are compared at equal evaluations"
        return found

    def _select(self, merges: dict[str, State], family: Cognates) -> tuple[dict[str, float], str]:
        """Bits per byte of all merges on validation text, and the best of those that are no controls."""
        windows = self._windows("val", self._config.selection_windows)
        scores = {
            name: float(windows.bits_per_byte(window_nats(self._network(family, state), windows)).mean())
            for name, state in merges.items()
        }
        controls = tuple(name for name in (*STRATEGIES, RANDOM) if name != self._config.strategy)
        champion = min((name for name in scores if not name.startswith(controls)), key=scores.__getitem__)
        return {f"{name}/val": score for name, score in scores.items()}, champion

    def _measure(self, paths: dict[str, Path], family: Cognates) -> dict[str, float]:
        """Of what was written: bits per byte on the test split, mean over domains."""
        windows = self._windows("test", self._config.test_windows)
        metrics: dict[str, float] = {}
        for number, (name, path) in enumerate({"trunk": family.paths[0], **paths}.items()):
            self._context.progress(number, len(paths) + 1, "measuring")
            bits = windows.bits_per_byte(window_nats(load_language_model(path), windows))
            name = "champion" if name == MODEL else name
            metrics[f"{name}/bits_per_byte"] = float(bits.mean())
            if name in ("trunk", SOUP, "champion"):
                metrics |= {
                    f"{name}/{domain}/bits_per_byte": float(found)
                    for domain, found in zip(windows.domains, bits, strict=True)
                }
        champion = metrics["champion/bits_per_byte"]
        metrics["bits_below_trunk"] = metrics["trunk/bits_per_byte"] - champion
        metrics["bits_below_soup"] = metrics[f"{SOUP}/bits_per_byte"] - champion
        seeds = range(self._config.search_seeds)
        for strategy in (*STRATEGIES, RANDOM):
            if f"{strategy}_0" in paths:
                of_seeds = [metrics[f"{strategy}_{seed}/bits_per_byte"] for seed in seeds]
                metrics[f"{strategy}/median_bits_per_byte"] = median(of_seeds)
        searched = metrics[f"{self._config.strategy}/median_bits_per_byte"]
        metrics["search_bits_below_random"] = metrics[f"{RANDOM}/median_bits_per_byte"] - searched
        return metrics

    def _continue_trunk(self, family: Cognates, output: Path) -> Path:
        """The trunk trained on, on all domains alike, for as long as the specialists were together."""
        context, budget = self._context, self._config.continued_training
        batches = even_text(context, budget.batch_size, context.model.block_size, f"evomerge/{CONTINUED}")
        network = copy.deepcopy(family.trunk.host)
        trained = LanguageTraining(network, batches, budget, CONTINUED, output / CHECKPOINTS).run(context)
        return self._save(output / CANDIDATES / CONTINUED, trained, family, None)

    def _network(self, family: Cognates, state: State) -> nn.Module:
        network = copy.deepcopy(family.trunk.host).eval()
        load_state(network, state)
        return network

    def _save(self, path: Path, network: nn.Module, family: Cognates, val: float | None) -> Path:
        trunk, *specialists = family.paths
        return save_language_model(
            path,
            network,
            self._context.tokenizer,
            phase=self.name,
            seed=self._context.seed,
            data_fingerprint=self._context.corpus.fingerprint,
            parents=[parent(trunk, "trunk"), *(parent(each, "specialist") for each in specialists)],
            metrics={} if val is None else {"val/bits_per_byte": val},
        )

    def _verdict(self, metrics: dict[str, float], champion: str) -> str:
        merged = metrics["champion/bits_per_byte"]
        figures = (
            f"the champion ({champion}) {merged:.4f} bits per byte, the trunk {metrics['trunk/bits_per_byte']:.4f}"
        )
        control = metrics.get(f"{CONTINUED}/bits_per_byte")
        if control is None:
            return f"{figures}."
        winner = "merging won" if merged < control else "training the trunk on won"
        steps = self._config.continued_training.steps
        return f"With equal steps {winner}: {figures}, and {control:.4f} after {steps} more steps on all domains."


def _weights(result: SearchResult | None, experts: list[str], groups: dict[str, str]) -> dict[str, float]:
    """The weights of a champion that a search has found, by expert and layer group."""
    if result is None:
        return {}
    names = [f"weight/{expert}/{group}" for expert in experts for group in group_names(groups)]
    return dict(zip(names, result.best.tolist(), strict=True))


def _read_history(path: Path) -> list[list[float]]:
    if not path.exists():
        return []
    try:
        return read_object(path, {"history": [[float]]})["history"]
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; remove it, and the search begins anew") from error


@PHASES.register("evomerge", EvomergeConfig)
def build_evomerge(config: EvomergeConfig, context: PhaseContext) -> Evomerge:
    """The phase, as configured."""
    return Evomerge(config, context)
