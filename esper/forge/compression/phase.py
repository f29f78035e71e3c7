"""A model in few bytes: files of two sizes, each scored as it was read back, and the smallest sound one passed on."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from esper.checkpoint import read_bundle
from esper.checkpoint.bundle import bundle_paths, read_sidecar
from esper.errors import CheckpointError, EsperError, ForgeError, first_line
from esper.forge.bundles import MODEL, load_language_model, parent
from esper.forge.compression.bundle import FORMAT, save_compressed
from esper.forge.compression.calibration import calibrate
from esper.forge.compression.compressor import Compressor, compress_packed, plain_bytes
from esper.forge.compression.config import CompressionConfig
from esper.forge.compression.controls import compare_codecs
from esper.forge.compression.scoring import Score, score_bundles
from esper.forge.language_model import LanguageModel
from esper.forge.phase import PHASES, Gate, PhaseContext, PhaseResult, conclude
from esper.tasks.task import named_generator
from esper.tasks.text.windows import draw_windows

POINTS = ("tight", "gentle")  # of a plain model, the smaller file first
PACKED = "ternary"
_MOST_GENERATIONS = 16


@dataclass(frozen=True, slots=True)
class Attempt:
    """A file that was made. least: the score that it must keep."""

    name: str
    path: Path
    least: float


class Compression:
    """See `esper.forge.phase.Phase`. Its input may come from any phase."""

    name = "compression"

    def __init__(self, config: CompressionConfig, context: PhaseContext) -> None:
        self._config, self._context = config, context

    @property
    def gates(self) -> Sequence[Gate]:
        """Of the files that are made: of the plain model two, of a ternary one another."""
        return [gate for name in (*POINTS, PACKED) for gate in self._gates_of(name)]

    def check(self, input: Path | None) -> None:
        """See `Phase.check`."""
        if input is None:
            raise ForgeError("compression: it works on a model; name one, as in input=outputs/forge_small/ID")
        model = load_language_model(input / MODEL)
        if model.card.format == FORMAT:
            raise ForgeError(f"compression: {input} is compressed already; name the phase before it")

    def run(self, input: Path | None, output: Path) -> PhaseResult:
        """See `Phase.run`."""
        assert input is not None
        started = time.monotonic()
        given = input / MODEL
        plain = find_plain(given)
        attempts: list[Attempt] = []
        metrics: dict[str, float] = {}
        compressor: Compressor | None = None
        if is_packed(given):
            attempts.append(self._pack_anew(given, output))
        if plain is None:
            self._context.notes.append("No unquantised model was found among the parents: its files are not made.")
        else:
            compressor = self._compressor(plain)
            attempts += self._compress(plain, compressor, output)
        sources = [given] if plain is None else [given, plain]
        scores = self._score([*sources, *(attempt.path for attempt in attempts)], output)
        before = dict(zip(sources, scores, strict=False))
        kept: dict[str, float] = {}
        for attempt, score in zip(attempts, scores[len(sources) :], strict=True):
            source = given if attempt.name == PACKED or plain is None else plain
            metrics |= self._figures(attempt.name, attempt.path, source, score, before[source])
            kept[attempt.name] = metrics[f"{attempt.name}/score"]
        metrics["input/bits_per_byte"] = before[given].bits_per_byte
        chosen = next((attempt for attempt in attempts if kept[attempt.name] >= attempt.least), None)
        self._pass_on(chosen, given if plain is None else plain, compressor, output)
        artifacts = {MODEL: output / MODEL} | {attempt.name: attempt.path for attempt in attempts}
        if self._context.controls == "all" and plain is not None and compressor is not None:
            sizes = {point: int(metrics[f"{point}/bytes"]) for point in POINTS if f"{point}/bytes" in metrics}
            table = compare_codecs(load_language_model(plain), compressor, sizes, output, self._score, before[plain])
            artifacts["controls"] = table.path
            metrics |= table.metrics
        names = [*(POINTS if plain is not None else ()), *((PACKED,) if is_packed(given) else ())]
        return conclude(self.name, [g for name in names for g in self._gates_of(name)], metrics, artifacts, started)

    def _gates_of(self, name: str) -> list[Gate]:
        return [
            Gate(f"{name}/{figure}", "at_least", getattr(self._config, f"{name}_{figure}"))
            for figure in ("ratio", "score")
        ]

    def _compressor(self, plain: Path) -> Compressor:
        """With sensitivities, measured on as many windows of each domain's validation text."""
        model, context = load_language_model(plain), self._context
        domains = context.corpus.domains
        generator = named_generator(context.seed, "compression/calibration")
        count = max(1, self._config.calibration_windows // len(domains))
        drawn = [draw_windows(d.val, count, context.model.block_size, generator) for d in domains.values()]
        context.progress(0, 1, "measuring sensitivities")
        statistics = calibrate(model.host, *(torch.cat(part) for part in zip(*drawn, strict=True)))
        return Compressor(dict(read_bundle(plain).tensors), statistics, context.progress)

    def _compress(self, plain: Path, compressor: Compressor, output: Path) -> list[Attempt]:
        made = []
        size = plain_bytes(read_bundle(plain).tensors)
        for name in POINTS:
            ratio, least = (getattr(self._config, f"{name}_{figure}") for figure in ("ratio", "score"))
            try:
                packed = compressor.at(int(size / ratio), self._config.codecs)
            except EsperError as error:
                self._context.notes.append(f"{name}: {first_line(error)}")
                continue
            made.append(Attempt(name, self._save(output / name, plain, packed), least))
        return made

    def _pack_anew(self, given: Path, output: Path) -> Attempt:
        checkpoint = read_bundle(given)
        packed = compress_packed(checkpoint.tensors, load_language_model(given).card.format)
        return Attempt(PACKED, self._save(output / PACKED, given, packed), self._config.ternary_score)

    def _save(self, path: Path, source: Path, packed: Tensor) -> Path:
        parents = [parent(source, "compressed from")]
        model = load_language_model(source)
        save_compressed(path, model, packed, phase=self.name, seed=self._context.seed, parents=parents)
        return path

    def _score(self, bundles: Sequence[Path], folder: Path) -> list[Score]:
        context = self._context
        streams = {name: domain.test for name, domain in context.corpus.domains.items()}
        length, timeout_s = context.model.block_size, self._config.score_timeout_s
        context.progress(0, 1, "scoring in a fresh process")
        return score_bundles(bundles, streams, length, folder, context.threads, timeout_s)

    def _figures(self, name: str, path: Path, source: Path, score: Score, before: Score) -> dict[str, float]:
        size = path.with_suffix(".safetensors").stat().st_size
        parameters = plain_bytes(unpacked_shapes(load_language_model(source)))
        return {
            f"{name}/bytes": size,
            f"{name}/ratio": parameters / size,
            f"{name}/score": score.kept(before),
            f"{name}/top1_ratio": score.top1 / before.top1,
            f"{name}/bits_per_byte": score.bits_per_byte,
            f"{name}/load_s": score.load_s,
        }

    def _pass_on(self, chosen: Attempt | None, source: Path, compressor: Compressor | None, output: Path) -> None:
        """The smallest file that keeps its score; where none does, one of eight bits a weight, or what came in."""
        if chosen is not None:
            checkpoint = read_bundle(chosen.path)
            packed = next(iter(checkpoint.tensors.values()))
        elif compressor is not None:
            packed = compressor.gentlest()
        else:
            packed = compress_packed(read_bundle(source).tensors, load_language_model(source).card.format)
        self._save(output / MODEL, source, packed)
