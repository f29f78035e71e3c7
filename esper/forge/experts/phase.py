"""Phase 7: kinds of text are discovered, an expert is trained for each, and a router chooses mixtures of them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from esper.checkpoint import Checkpoint, read_bundle, write_bundle
from esper.checkpoint.bundle import bundle_paths
from esper.errors import ForgeError
from esper.forge.bitnet.bundle import TERNARY
from esper.forge.bitnet.quantizer import layer_matrices
from esper.forge.bundles import bundle_stem, load_language_model, parent, save_language_model
from esper.forge.examples import IGNORED
from esper.forge.experts.bundle import FORMAT, routed_tensors
from esper.forge.experts.config import ExpertsConfig
from esper.forge.experts.discovery import check_enough, discover, draw_prefixes
from esper.forge.experts.kinds import Dealer, PoolBatches, TextKind, kinds_of
from esper.forge.experts.layers import dense_copy
from esper.forge.experts.measuring import Measuring
from esper.forge.experts.mixing import MixtureAims
from esper.forge.experts.reward import RewardTraining
from esper.forge.experts.routed import RoutedDecoder
from esper.forge.experts.router import PrefixRouter, fit_router
from esper.forge.experts.searching import SearchReport, search_mixtures
from esper.forge.experts.singular_values import SingularValues
from esper.forge.phase import MASTERS, MODEL, PHASES, Gate, PhaseContext, PhaseResult, conclude
from esper.forge.trainable import masters_of
from esper.forge.training import LanguageTraining
from esper.tasks.task import named_generator

CHECKPOINTS, EXPERTS = "checkpoints", "experts"
ROUNDING = 1e-6  # by which the same network differs from itself, read in other parts
MOST_PARAMETERS_SHARE = 0.01  # of one expert, of the base's


@dataclass(frozen=True, slots=True)
class Discovery:
    """What the text was found to be made of."""

    kinds: list[TextKind]
    router: PrefixRouter
    silhouettes: dict[int, float]


class Experts:
    """See `esper.forge.phase.Phase`. `model` is routed; `experts` holds z - 1 of each expert alone."""

    name = "experts"

    def __init__(self, config: ExpertsConfig, context: PhaseContext) -> None:
        self._config, self._context = config, context

    @property
    def gates(self) -> Sequence[Gate]:
        """Each expert gains on its own kind, their mixture on all text, and the search is no worse than chance."""
        config = self._config
        return (
            Gate("own_gain_low", "at_least", 0.0),
            Gate("own_gain", "at_least", config.min_own_gain),
            Gate("gain_low", "at_least", 0.0),
            Gate("gain", "at_least", config.min_gain),
            Gate("gain_over_best_expert", "at_least", -ROUNDING),
            Gate("hypervolume_over_random", "at_least", 0.0),
            Gate("parameters_share", "at_most", MOST_PARAMETERS_SHARE),
        )

    def check(self, input: Path | None) -> None:
        """See `Phase.check`."""
        if input is None:
            raise ForgeError("experts: it works on the model of an earlier phase: name its folder, input=RUN_DIR")
        model, config, context = load_language_model(input), self._config, self._context
        model.card.check_tokenizer(context.tokenizer, f"experts: {input}")
        is_plain = model.card.format == "plain" and model.card.quantizer is None
        if not is_plain and model.card.format != TERNARY:
            raise ForgeError(
                f"experts: {input} holds {'masters' if model.card.format == 'plain' else model.card.format}; "
                "expected a plain model, or a packed ternary one"
            )
        if not hasattr(model.host, "features"):
            raise ForgeError(f"experts: {input} is no decoder, whose features a router could read")
        layer_matrices(dense_copy(model.host))
        if masters := masters_of(input):
            load_language_model(masters)  # refused now, and not when all is trained
        if config.stages[-1] >= model.host.block_size:
            raise ForgeError(
                f"experts.stages={config.stages}: the model reads {model.host.block_size} tokens, "
                "and a choice after the last of them comes too late"
            )
        check_enough(config.max_experts, config.prefixes * (len(context.corpus.domains) + len(model.card.lessons)))

    def run(self, input: Path | None, output: Path) -> PhaseResult:
        """See `Phase.run`."""
        assert input is not None
        started = time.monotonic()
        config, context = self._config, self._context
        base = load_language_model(input)
        found = self._discover(base)
        dealer = Dealer(base.host, found.router, context.tokenizer, config.stages[-1])
        scaled = SingularValues(dense_copy(base.host))
        measuring = Measuring(config, context, base, scaled, dealer, found.kinds)
        batches = self._text_batches(dealer, found.kinds, base.host.block_size)
        trained = {
            kind.number: self._train(kind, scaled, dealer, batches.get(kind.number), output)
            for kind in found.kinds
            if kind.is_procedural or kind.number in batches
        }
        owners = measuring.worth_keeping(trained)
        experts = torch.stack([trained[owner] for owner in owners])
        mixtures, searched = self._mix(scaled, experts, owners, found.kinds, measuring, output)
        artifacts = self._save(input, base, experts, mixtures, found.router, output)
        metrics = {
            "clusters": float(len(found.kinds)),
            "experts": float(len(owners)),
            "parameters_share": experts.shape[1] / sum(p.numel() for p in scaled.network.parameters()),
            **{f"silhouette/{count}": value for count, value in found.silhouettes.items()},
            **searched.metrics,
            **measuring.test(load_language_model(artifacts[MODEL]), owners),
        }
        if context.controls == "all":
            metrics |= measuring.controls(
                self._text_batches(dealer, found.kinds, base.host.block_size), owners, metrics, output
            )
        return conclude(self.name, self.gates, metrics, artifacts, started)

    def _discover(self, base: Any) -> Discovery:
        config, context = self._config, self._context
        context.progress(0, 1, "discovering kinds of text")
        lessons, length = base.card.lessons, config.stages[-1]
        prefixes = draw_prefixes(context.corpus, lessons, context.tokenizer, config.prefixes, length, context.seed)
        clusters = discover(base.host, prefixes.tokens, config.max_experts, context.seed)
        router = fit_router(base.host, prefixes.tokens, clusters.labels, config.stages)
        return Discovery(kinds_of(clusters, prefixes, lessons), router, clusters.silhouettes)

    def _text_batches(self, dealer: Dealer, kinds: Sequence[TextKind], length: int) -> dict[int, PoolBatches]:
        """Of each kind of text, those of the training text's windows that are dealt to it."""
        config, context = self._config, self._context
        generator = named_generator(context.seed, "experts/train_windows")
        streams = [domain.train for domain in context.corpus.domains.values()]
        x, y, numbers = dealer.windows(streams, config.train_windows, length, generator)
        return {
            kind.number: PoolBatches(
                x[numbers == kind.number],
                y[numbers == kind.number],
                config.training.batch_size,
                named_generator(context.seed, f"experts/batches/{kind.number}"),
            )
            for kind in kinds
            if not kind.is_procedural and bool((numbers == kind.number).any())
        }

    def _train(
        self, kind: TextKind, scaled: SingularValues, dealer: Dealer, batches: PoolBatches | None, output: Path
    ) -> Tensor:
        """z - 1 of one kind's expert."""
        config, context = self._config, self._context
        name, folder = f"expert_{kind.number}", output / CHECKPOINTS
        with torch.no_grad():
            scaled.values.zero_()
        if batches is None:
            RewardTraining(
                scaled,
                kind.lessons,
                lambda lesson, count, generator: dealer.problems(kind, lesson, count, generator),
                config.reward,
                context.tokenizer,
                name,
                folder,
                context.seed,
            ).run(context)
        else:
            LanguageTraining(scaled, batches, config.training, name, folder).run(context)
        return scaled.values.detach().clone()

    def _mix(
        self,
        scaled: SingularValues,
        experts: Tensor,
        owners: Sequence[int],
        kinds: Sequence[TextKind],
        measuring: Measuring,
        output: Path,
    ) -> tuple[Tensor, SearchReport]:
        config, context = self._config, self._context
        aims = MixtureAims(
            scaled,
            experts,
            owners,
            [_from_stage(*measuring.searched(kind), config.stages[0]) for kind in kinds],
            torch.tensor([kind.share for kind in kinds]),
            output / CHECKPOINTS / "mixtures.json",
            context.should_stop,
        )
        report = search_mixtures(aims, config, context)
        return torch.cat((report.mixtures, aims.opening(report.mixtures)[None])), report

    def _save(
        self, input: Path, base: Any, experts: Tensor, mixtures: Tensor, router: PrefixRouter, output: Path
    ) -> dict[str, Path]:
        context, stages = self._context, tuple(self._config.stages)
        given: dict[str, Any] = {
            "phase": self.name,
            "seed": context.seed,
            "data_fingerprint": context.corpus.fingerprint,
            "quantizer": base.card.quantizer,
            "lessons": base.card.lessons,
        }
        routed = RoutedDecoder(base.host, experts, mixtures, router, stages)
        tensors = routed_tensors(read_bundle(bundle_stem(input)).tensors, experts, mixtures, router, stages)
        write_bundle(output / EXPERTS, Checkpoint(tensors={"values": experts}, kind="experts"))
        artifacts = {EXPERTS: bundle_paths(output / EXPERTS)[0]}
        parents = [parent(input, "base")]
        if masters := masters_of(input):  # as they were, for whoever goes on training the base
            artifacts[MASTERS] = save_language_model(
                output / MASTERS,
                load_language_model(masters),
                context.tokenizer,
                parents=[parent(masters, "the same")],
                **given,
            )
            parents.append(parent(artifacts[MASTERS], MASTERS))
        artifacts[MODEL] = save_language_model(
            output / MODEL,
            routed,
            context.tokenizer,
            parents=parents,
            format=FORMAT,
            tensors=tensors,
            **given,
        )
        return artifacts


def _from_stage(x: Tensor, y: Tensor, stage: int) -> tuple[Tensor, Tensor]:
    """What is counted of windows: what is read behind the first stage, where mixtures are in use."""
    y = y.clone()
    y[:, : stage - 1] = IGNORED
    return x, y


@PHASES.register("experts", ExpertsConfig)
def build_experts(config: ExpertsConfig, context: PhaseContext) -> Experts:
    """The phase, as configured."""
    return Experts(config, context)
