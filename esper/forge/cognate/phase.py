"""A trunk on all domains, and a specialist of each."""

import copy
import dataclasses
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from esper.errors import ForgeError
from esper.forge.budget import TrainingBudget
from esper.forge.bundles import load_language_model, parent, save_language_model
from esper.forge.cognate.config import CognateConfig
from esper.forge.cognate.growing import GROWN, grow_trunk
from esper.forge.evaluation import WindowScores, evaluate_corpus
from esper.forge.ngram import ngram_bits_per_byte
from esper.forge.phase import PHASES, Gate, PhaseContext, PhaseResult, conclude
from esper.forge.training import LanguageTraining, MixedBatches
from esper.forge.trunk import trunk_from_run
from esper.kasmina.decoder import Decoder
from esper.tasks.task import named_generator

TRUNK = "model"
CHECKPOINTS = "checkpoints"
RESERVED = (TRUNK, "trunk", "phase", CHECKPOINTS, GROWN)  # other names in this phase's folder and among its models
_FILE_NAME = re.compile(r"\w[\w -]*")
_MOST_NAME_BYTES = 100  # beside what else files are called by, and what a folder takes
Scores = Mapping[str, WindowScores]


class Cognate:
    """See `esper.forge.phase.Phase`. It starts from nothing but text, or from a decoder that a run has grown."""

    name = "cognate"

    def __init__(self, config: CognateConfig, context: PhaseContext) -> None:
        self._config, self._context = config, context

    @property
    def gates(self) -> Sequence[Gate]:
        """The trunk predicts better than counting, each specialist is best on its own domain, nothing looks ahead."""
        domains = self._context.corpus.domains
        return (
            *(Gate(f"{domain}/bits_below_ngram", "at_least", 0.0) for domain in domains),
            Gate("specialists_best_at_home", "at_least", len(domains)),
            Gate("is_causal", "at_least", 1.0),
        )

    def check(self, input: Path | None) -> None:
        """See `Phase.check`."""
        if input is not None:
            raise ForgeError(f"cognate: it starts from text, and takes no input; got {input}")
        for domain in self._context.corpus.domains:  # which refuses what leaves no window
            is_short = len(domain.encode("utf-8", "surrogateescape")) <= _MOST_NAME_BYTES
            if domain in RESERVED or not is_short or not _FILE_NAME.fullmatch(domain):
                raise ForgeError(
                    f"corpus.paths: a domain cannot be called {domain!r:.60}: files are named after it\n"
                    "  rename its path to letters, digits, spaces, dashes and underscores (100 bytes), but not to "
                    f"{', '.join(RESERVED)}"
                )
        if self._config.trunk is not None:
            longest = trunk_from_run(Path(self._config.trunk), self._context.tokenizer).block_size
            if longest < self._context.model.block_size:
                raise ForgeError(
                    f"cognate.trunk={self._config.trunk}: reads at most {longest} tokens, and phases train on "
                    f"{self._context.model.block_size}\n  to train on as many: model.block_size={longest}"
                )

    def run(self, input: Path | None, output: Path) -> PhaseResult:
        """See `Phase.run`."""
        started = time.monotonic()
        context = self._context
        domains = list(context.corpus.domains)
        even = dict.fromkeys(domains, 1.0)
        network, counts = self._trunk(even, output)
        trunk = self._save(output / TRUNK, network, even, trunk=None)
        artifacts = {"trunk": trunk}
        for domain in domains:
            share = self._config.specialist_share
            mix = {each: share if each == domain else (1 - share) / max(len(domains) - 1, 1) for each in domains}
            specialist = copy.deepcopy(load_language_model(trunk).host)
            trained = self._train(specialist, mix, self._config.specialist_training, f"specialist_{domain}", output)
            artifacts[domain] = self._save(output / domain, trained, mix, trunk)
        metrics = self._measure(artifacts) | counts
        return conclude(self.name, self.gates, metrics, artifacts, started)

    def _trunk(self, mix: Mapping[str, float], output: Path) -> tuple[nn.Module, dict[str, float]]:
        """The trunk, and what is to be counted of it."""
        config, context = self._config, self._context
        if config.trunk is not None:
            network: nn.Module = trunk_from_run(Path(config.trunk), context.tokenizer)
            seeds: Mapping[str, int] = {}
        elif config.grow:
            budget = config.trunk_training
            grown = grow_trunk(context, budget, config.grow_epochs, config.checkpoint_every_steps, output)
            context.notes.append(grown.note())
            network, seeds = grown.network, grown.seeds
        else:
            generator = named_generator(context.seed, "cognate/trunk")
            sizes = dataclasses.asdict(context.model)
            network = Decoder(vocab_size=context.tokenizer.vocab_size, **sizes, generator=generator)
            network, seeds = self._train(network, mix, config.trunk_training, "trunk", output), {}
        return network, {"trunk/parameters": _parameters(network), **{f"trunk/seeds_{k}": n for k, n in seeds.items()}}

    def _train(
        self, network: nn.Module, mix: Mapping[str, float], budget: TrainingBudget, name: str, output: Path
    ) -> nn.Module:
        context = self._context
        batches = MixedBatches(
            context.corpus, mix, budget.batch_size, context.model.block_size, f"cognate/{name}", context.seed
        )
        training = LanguageTraining(network, batches, budget, name, output / CHECKPOINTS)
        return training.run(context, self._config.checkpoint_every_steps)

    def _save(self, path: Path, network: nn.Module, mix: Mapping[str, float], trunk: Path | None) -> Path:
        return save_language_model(
            path,
            network,
            self._context.tokenizer,
            phase=self.name,
            seed=self._context.seed,
            data_fingerprint=self._context.corpus.fingerprint,
            parents=[] if trunk is None else [parent(trunk, "trunk")],
            metrics={"parameters": _parameters(network), **{f"share/{domain}": share for domain, share in mix.items()}},
        )

    def _measure(self, artifacts: Mapping[str, Path]) -> dict[str, float]:
        """Of what was written: bits per byte on the test split, of every model on every domain."""
        context, corpus = self._context, self._context.corpus
        length = context.model.block_size
        metrics: dict[str, float] = {}
        scores: dict[str, Scores] = {}
        for number, (name, path) in enumerate(artifacts.items()):
            context.progress(number, len(artifacts), "measuring")
            scores[name] = evaluate_corpus(load_language_model(path), corpus, "test", length)
            for domain, found in scores[name].items():
                metrics[f"{name}/{domain}/bits_per_byte"] = found.bits_per_byte
        for domain, text in corpus.domains.items():
            order, tokenizer = self._config.baseline_order, context.tokenizer
            counted = ngram_bits_per_byte(text.train, text.test, order, tokenizer.vocab_size, tokenizer.token_bytes)
            metrics[f"{domain}/ngram_bits_per_byte"] = counted
            metrics[f"{domain}/bits_below_ngram"] = counted - scores["trunk"][domain].bits_per_byte
        metrics["specialists_best_at_home"] = sum(
            min(corpus.domains, key=lambda name: scores[name][domain].bits_per_byte) == domain
            for domain in corpus.domains
        )
        metrics["is_causal"] = float(is_causal(load_language_model(artifacts["trunk"]), length))
        return metrics


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@torch.inference_mode()
def is_causal(model: nn.Module, length: int, vocab_size: int = 256) -> bool:
    """Whether a changed token leaves every earlier logit bit for bit as it was; tried at every eighth position."""
    tokens = torch.randint(vocab_size, (1, length), generator=named_generator(0, "causal"))
    before = model(tokens)
    for place in range(1, length, max(1, length // 8)):
        changed = tokens.clone()
        changed[0, place] = (changed[0, place] + 1) % vocab_size
        if not torch.equal(model(changed)[:, :place], before[:, :place]):
            return False
    return True


@PHASES.register("cognate", CognateConfig)
def build_cognate(config: CognateConfig, context: PhaseContext) -> Cognate:
    """The phase, as configured."""
    return Cognate(config, context)
