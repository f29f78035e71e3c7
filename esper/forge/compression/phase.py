"""A model in few bytes: files of two sizes, each scored as it was read back, and the smallest sound one passed on."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from esper.checkpoint import read_bundle
from esper.checkpoint.bundle import bundle_paths
from esper.checkpoint.plain import to_json
from esper.errors import CompressionError, ForgeError
from esper.files import write_atomic
from esper.forge.bundles import bundle_stem, load_language_model, parent
from esper.forge.compression.allocation import FAMILIES
from esper.forge.compression.bundle import FORMAT, save_compressed
from esper.forge.compression.calibration import calibrate
from esper.forge.compression.compressor import Compressor, compress_packed
from esper.forge.compression.config import CompressionConfig
from esper.forge.compression.container import KEY
from esper.forge.compression.lineage import bytes_before, find_plain, is_packed
from esper.forge.compression.scoring import BundleScore, score_bundles
from esper.forge.phase import MODEL, PHASES, Gate, PhaseContext, PhaseResult, conclude
from esper.tasks.task import named_generator
from esper.tasks.text.windows import draw_windows

POINTS = ("tight", "gentle")  # of a plain model, the smaller file first
PACKED = "ternary"


@dataclass(frozen=True, slots=True)
class Attempt:
    """A file that was made of another. least: the score that it must keep."""

    name: str
    path: Path
    source: Path
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
        model = load_language_model(input)
        if model.card.format == FORMAT:
            raise ForgeError(f"compression: {input} is compressed already; name the phase before it")
        if model.card.format == "plain" and model.card.quantizer is not None:
            raise ForgeError(f"compression: {input} holds master weights; name the packed model that goes with them")
        model.card.check_tokenizer(self._context.tokenizer, f"compression: {input}")

    def run(self, input: Path | None, output: Path) -> PhaseResult:
        """See `Phase.run`."""
        assert input is not None
        started = time.monotonic()
        given = bundle_stem(input)
        plain = find_plain(given)
        compressor = None if plain is None else self._compressor(plain)
        if plain not in (None, given) and not is_packed(given):
            self._context.notes.append("The experts are left out: what they are experts of is compressed without them.")
        attempts: list[Attempt] = []
        if is_packed(given):
            attempts.append(self._pack_anew(given, output))
        if plain is None or compressor is None:
            self._context.notes.append("No unquantised model was found among the parents: its files are not made.")
        else:
            attempts += self._compress(plain, compressor, output)
        sources = sorted({given, *(attempt.source for attempt in attempts)})
        scores = self._score([*sources, *(attempt.path for attempt in attempts)], output)
        before = dict(zip(sources, scores, strict=False))
        metrics = {"input/bits_per_byte": before[given].bits_per_byte}
        for attempt, score in zip(attempts, scores[len(sources) :], strict=True):
            metrics |= self._figures(attempt, score, before[attempt.source])
        self._pass_on(attempts, metrics, given, compressor, output)
        artifacts = {MODEL: output / MODEL} | {attempt.name: attempt.path for attempt in attempts}
        if self._context.controls == "all" and plain is not None and compressor is not None:
            sizes = {name: int(metrics[f"{name}/bytes"]) for name in POINTS if f"{name}/bytes" in metrics}
            found = self._controls(plain, compressor, sizes, before[plain], output)
            artifacts["controls"] = write_table(output / "controls.json", found)
            metrics |= {
                f"{point}/{family}/score": score for point, row in found.items() for family, score in row.items()
            }
        asked = [*(POINTS if plain is not None else ()), *((PACKED,) if is_packed(given) else ())]
        return conclude(self.name, [g for name in asked for g in self._gates_of(name)], metrics, artifacts, started)

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
        for name in POINTS:
            ratio, least = (getattr(self._config, f"{name}_{figure}") for figure in ("ratio", "score"))
            try:
                packed = compressor.at(int(bytes_before(plain) / ratio), self._config.codecs)
            except CompressionError as error:  # the gate of this file says that it was not measured
                self._context.notes.append(f"{name}: {error}")
                continue
            made.append(Attempt(name, self._save(output / name, plain, packed), plain, least))
        return made

    def _pack_anew(self, given: Path, output: Path) -> Attempt:
        path = self._save(output / PACKED, given, _packed_anew(given))
        return Attempt(PACKED, path, given, self._config.ternary_score)

    def _save(self, path: Path, source: Path, packed: Tensor) -> Path:
        """Write a compressed bundle; its path without a suffix."""
        parents = [parent(source, "compressed from")]
        model = load_language_model(source)
        save_compressed(path, model, packed, phase=self.name, seed=self._context.seed, parents=parents)
        return path

    def _score(self, bundles: Sequence[Path], folder: Path) -> list[BundleScore]:
        context = self._context
        streams = {name: domain.test for name, domain in context.corpus.domains.items()}
        length, timeout_s = context.model.block_size, self._config.score_timeout_s
        context.progress(0, 1, "scoring in a fresh process")
        return score_bundles(bundles, streams, length, folder, context.threads, timeout_s)

    def _figures(self, attempt: Attempt, score: BundleScore, before: BundleScore) -> dict[str, float]:
        size = bundle_paths(attempt.path)[0].stat().st_size
        figures = {
            "bytes": float(size),
            "ratio": bytes_before(attempt.source) / size,
            "score": score.kept(before),
            "top1_ratio": score.top1 / before.top1,
            "bits_per_byte": score.bits_per_byte,
            "load_s": score.load_s,
        }
        return {f"{attempt.name}/{name}": figure for name, figure in figures.items()}

    def _pass_on(
        self,
        attempts: Sequence[Attempt],
        metrics: dict[str, float],
        given: Path,
        compressor: Compressor | None,
        output: Path,
    ) -> None:
        """The first file that keeps its score; where none does, the plain model at eight bits a weight."""
        for attempt in attempts:
            if metrics[f"{attempt.name}/score"] >= attempt.least:
                self._save(output / MODEL, attempt.source, read_bundle(attempt.path).tensors[KEY])
                return
        self._context.notes.append("No file kept its score: what is passed on has eight bits a weight.")
        if compressor is None:
            packed = _packed_anew(given)
        else:
            given, packed = find_plain(given) or given, compressor.gentlest()
        self._save(output / MODEL, given, packed)

    def _controls(
        self, plain: Path, compressor: Compressor, sizes: dict[str, int], before: BundleScore, output: Path
    ) -> dict[str, dict[str, float]]:
        """Scores of each codec alone at the bytes of each file: name of the file -> codec -> score."""
        made: dict[tuple[str, str], Path] = {}
        for name, size in sizes.items():
            for family in FAMILIES:
                try:
                    packed = compressor.at(size, [family])
                except CompressionError:  # it cannot be as small
                    continue
                made[name, family] = self._save(output / "controls" / f"{name}_{family}", plain, packed)
        scores = self._score(list(made.values()), output)
        found: dict[str, dict[str, float]] = {name: {} for name in sizes}
        for (name, family), score in zip(made, scores, strict=True):
            found[name][family] = score.kept(before)
        return found


def _packed_anew(given: Path) -> Tensor:
    return compress_packed(read_bundle(given).tensors, load_language_model(given).card.format)


def write_table(path: Path, scores: dict[str, dict[str, float]]) -> Path:
    """Scores by file and codec, as JSON."""
    write_atomic(path, to_json(scores).encode())
    return path


@PHASES.register("compression", CompressionConfig)
def build_compression(config: CompressionConfig, context: PhaseContext) -> Compression:
    """The phase, as configured."""
    return Compression(config, context)
