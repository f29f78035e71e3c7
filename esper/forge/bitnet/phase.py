"""Phase 4: the model of an earlier phase, trained through the quantiser and packed."""

import copy
import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from esper.errors import ForgeError
from esper.forge.architectures import plain_bytes
from esper.forge.bitnet.bundle import apply_quantizer, quantizer_card
from esper.forge.bitnet.config import BitnetConfig
from esper.forge.bitnet.fine_tuner import FineTuner
from esper.forge.bitnet.quantizer import quantize_layers
from esper.forge.bundles import bundle_stem, load_language_model
from esper.forge.evaluation import WindowScores, evaluate_corpus, window_losses
from esper.forge.language_model import LanguageModel
from esper.forge.phase import MASTERS, MODEL, PHASES, Gate, PhaseContext, PhaseResult, conclude
from esper.forge.replay import text_with_lessons
from esper.forge.trainable import Trainable
from esper.tasks.task import named_generator

CHECKPOINTS, CONTROLS = "checkpoints", "controls"
MOST_DIFFERENCE = 1e-5  # between the packed model's logits and those of its masters through the quantiser
_VALIDATION_WINDOWS = 32  # of each domain, after every epoch

# What stands beside the phase with controls=all, each with as many steps: what of the configuration is another.
VARIANTS: dict[str, dict[str, Any]] = {
    "adamw": {"optimizer": "adamw", "grokfast": False, "even_gradients": False},
    "muon": {"optimizer": "muon", "grokfast": False, "even_gradients": False},
    "grokfast": {"optimizer": "adamw", "grokfast": True, "even_gradients": False},
    "even_gradients": {"optimizer": "adamw", "grokfast": False, "even_gradients": True},
}
UNQUANTIZED = "unquantized"  # trained on as it is, on text alone
Scores = Mapping[str, WindowScores]  # by domain


class Bitnet:
    """See `esper.forge.phase.Phase`. `model` is packed, for use; `masters` is what later phases train on."""

    name = "bitnet"

    def __init__(self, config: BitnetConfig, context: PhaseContext) -> None:
        self._config, self._context = config, context

    @property
    def gates(self) -> Sequence[Gate]:
        """The packed model keeps what its input knew, in so many times fewer bytes, and is what was trained."""
        config = self._config
        return (
            Gate("top1_ratio", "at_least", config.min_top1_ratio),
            Gate("likelihood_ratio", "at_least", config.min_likelihood_ratio),
            Gate("bytes_ratio", "at_least", config.min_bytes_ratio),
            Gate("packed_difference", "at_most", MOST_DIFFERENCE),
        )

    def check(self, input: Path | None) -> None:
        """See `Phase.check`."""
        if input is None:
            raise ForgeError("bitnet: it works on the model of an earlier phase: name its folder, input=RUN_DIR")
        card = load_language_model(input).card
        if card.format != "plain" or card.quantizer is not None:
            raise ForgeError(f"bitnet: {input} is quantised already; expected the model of a phase before bitnet")
        card.check_tokenizer(self._context.tokenizer, f"bitnet: {input}")

    def run(self, input: Path | None, output: Path) -> PhaseResult:
        """See `Phase.run`."""
        started = time.monotonic()
        assert input is not None
        teacher = load_language_model(input)
        config, context = self._config, self._context
        student = quantize_layers(copy.deepcopy(teacher.host))
        before = math.exp(self._validate(teacher.host))
        untrained = math.exp(self._validate(student))
        tuner = self._tuner(student, teacher, config, output / CHECKPOINTS)
        metrics: dict[str, float] = {"perplexity": before, "untrained_perplexity": untrained}
        if tuner.should_fine_tune(before, untrained):
            metrics |= tuner.train(context.log, context.progress, context.should_stop)
            metrics |= {f"gradient/{name}": size for name, size in tuner.gradient_norms.items()}
        else:
            context.notes.append("Quantising alone lost next to nothing, and nothing was trained.")
        artifacts = self._save(student, input, output)
        scores = self._scores(teacher)
        metrics |= self._measure(artifacts, teacher.host, scores)
        if context.controls == "all":
            metrics |= self._controls(input, output, scores, metrics)
        return conclude(self.name, self.gates, metrics, artifacts, started)

    def _tuner(self, network: nn.Module, teacher: LanguageModel, config: BitnetConfig, folder: Path) -> FineTuner:
        """One that goes on where it stopped; all see the same text in the same order."""
        length = teacher.host.block_size
        tuner = FineTuner(
            network,
            teacher.host,
            text_with_lessons(
                self._context, config.batch_size, length, "bitnet", teacher.card.lessons, config.replay_share
            ),
            self._validate,
            config,
            use_mixed_precision=config.use_mixed_precision,
            max_grad_norm=config.max_grad_norm,
            checkpoint_dir=folder,
        )
        tuner.resume()
        return tuner

    def _validate(self, network: nn.Module) -> float:
        """Mean nats a token on the first windows of each domain's validation text."""
        corpus, length = self._context.corpus, network.block_size
        assert isinstance(length, int)
        token_bytes = corpus.tokenizer.token_bytes
        scores = [
            window_losses(network, domain.val[: _VALIDATION_WINDOWS * length + 1], length, token_bytes=token_bytes)
            for domain in corpus.domains.values()
        ]
        return sum(score.nats_per_token for score in scores) / len(scores)

    def _save(self, student: nn.Module, input: Path, folder: Path) -> dict[str, Path]:
        card = load_language_model(input).card
        quantized = dataclasses.replace(card, quantizer=quantizer_card(self._config.embedding))
        return Trainable(student, quantized, bundle_stem(input)).save(folder / MODEL, self._context, self.name)

    def _scores(self, model: LanguageModel) -> Scores:
        return evaluate_corpus(model, self._context.corpus, "test", model.host.block_size)

    def _measure(self, artifacts: Mapping[str, Path], teacher: nn.Module, before: Scores) -> dict[str, float]:
        """Of the packed model, read back from its file; before: of the input."""
        packed = load_language_model(artifacts[MODEL])
        masters = load_language_model(artifacts[MASTERS])
        quantized = apply_quantizer(masters.host, masters.card.quantizer or {})
        shape = (4, packed.host.block_size)
        probe = torch.randint(packed.tokenizer.vocab_size, shape, generator=named_generator(0, "bitnet/probe"))
        with torch.inference_mode():
            difference = (packed(probe) - quantized(probe)).abs().max().item()
        bytes_on_disk = artifacts[MODEL].stat().st_size
        after = self._scores(packed)
        return {
            "bytes": bytes_on_disk,
            "bytes_ratio": plain_bytes(teacher) / bytes_on_disk,
            "packed_difference": difference,
            **_ratios(after, before),
            **{f"{domain}/bits_per_byte": found.bits_per_byte for domain, found in after.items()},
            **{f"{domain}/input_bits_per_byte": found.bits_per_byte for domain, found in before.items()},
        }

    def _controls(self, input: Path, output: Path, before: Scores, reached: Mapping[str, float]) -> dict[str, float]:
        config = dataclasses.replace(self._config, distill=0.0)
        trained_on = self._scores(self._control(UNQUANTIZED, input, output, config))
        metrics = {f"{UNQUANTIZED}/{name}": value for name, value in _ratios(trained_on, before).items()}
        if metrics[f"{UNQUANTIZED}/likelihood_ratio"] > reached["likelihood_ratio"]:
            gained = math.log(metrics[f"{UNQUANTIZED}/likelihood_ratio"] / reached["likelihood_ratio"])
            self._context.notes.append(
                f"The unquantised model, trained on for as many steps, is {gained:.3f} nats a token better."
            )
        for name, change in VARIANTS.items():
            config = dataclasses.replace(self._config, **change)
            scores = self._scores(self._control(name, input, output, config))
            metrics |= {f"{name}/{figure}": value for figure, value in _ratios(scores, before).items()}
        return metrics

    def _control(self, name: str, input: Path, output: Path, config: BitnetConfig) -> LanguageModel:
        """One more training of the input, as it comes back from its file."""
        teacher = load_language_model(input)
        network = copy.deepcopy(teacher.host)
        folder, context = output / CONTROLS / name, self._context
        if name != UNQUANTIZED:
            quantize_layers(network)
        self._tuner(network, teacher, config, folder / CHECKPOINTS).train(
            progress=lambda done, total, _: context.progress(done, total, name), should_stop=context.should_stop
        )
        if name == UNQUANTIZED:
            Trainable(network, teacher.card, bundle_stem(input)).save(folder / MODEL, context, self.name)
        else:
            self._save(network, input, folder)
        return load_language_model(folder)


def _ratios(after: Scores, before: Scores) -> dict[str, float]:
    """What is kept of a model, over all domains together."""
    now, then = (WindowScores.pooled(scores.values()) for scores in (after, before))
    return {"top1_ratio": now.top1 / then.top1, "likelihood_ratio": math.exp(then.nats_per_token - now.nats_per_token)}


@PHASES.register("bitnet", BitnetConfig)
def build_bitnet(config: BitnetConfig, context: PhaseContext) -> Bitnet:
    """The phase, as configured."""
    return Bitnet(config, context)
