"""What a language model can do, measured on its bundle as it lies on disk."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from esper.checkpoint.bundle import bundle_paths
from esper.errors import ForgeError, first_line
from esper.files.records import CONFIG_FILE
from esper.forge.architectures import build_network, plain_bytes
from esper.forge.bundles import load_language_model
from esper.forge.card import ModelCard
from esper.forge.composing import read_config
from esper.forge.config import ForgeConfig
from esper.forge.evaluation import window_losses
from esper.forge.language_model import LanguageModel
from esper.forge.lessons import Lesson
from esper.forge.measuring import latency_ms
from esper.forge.records import run_above
from esper.sweep.terminal import shown
from esper.tasks.procedural import FAMILIES
from esper.tasks.settings import CorpusConfig
from esper.tasks.text.corpus import build_corpus
from esper.tasks.text.sources import own_files
from esper.tasks.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

MOST_TEXT_BYTES = 1 << 20  # of a path that is given


@dataclass(frozen=True, slots=True)
class DomainScore:
    """On one kind of text: bits per byte, the share of tokens whose likeliest prediction was right, in percent."""

    bits_per_byte: float
    top1: float
    windows: int


@dataclass(frozen=True, slots=True)
class LessonScore:
    """Problems of one family and level. accuracy: in percent; None where they could not be put to it, and `why`."""

    phase: str | None
    style: str
    family: str
    level: int
    problems: int
    accuracy: float | None
    why: str = ""

    @property
    def label(self) -> str:
        """As a table's row is called."""
        taught = f", taught by {self.phase}" if self.phase else ""
        return f"{self.family}, level {self.level}: right as {self.style}{taught}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """Of one bundle, whose checksums and canary hold (else it is not loaded).

    phase: that made it. parameters: of its network, tied ones once. text: what it was measured on. length: of a window,
    in tokens. notes: sentences on what to mind.
    """

    model: str
    phase: str
    format: str
    bytes: int
    parameters: int
    length: int
    latency_ms: float
    text: str
    domains: Mapping[str, DomainScore]
    lessons: Sequence[LessonScore]
    notes: Sequence[str]


class _GivenText(CorpusConfig):
    """Text of the user's own that nothing is trained on; its checks of paths are those of a corpus."""

    @property
    def paths_key(self) -> str:
        return "--text"


def check_asked(bundle: Path, text: Sequence[str], families: Sequence[str]) -> None:
    """Raises: EsperError where there is no text to measure on, or no such family; before anything is loaded."""
    for family in families:
        FAMILIES[family]
    if text:
        _GivenText(name="text", paths=list(text))
    elif run_above(bundle) is None:
        raise ForgeError(
            f"{bundle}: it lies in no run of the forge, whose text it could be measured on\n"
            f"  name some: esper evaluate {bundle} --text FILE"
        )


def assess(
    bundle: Path, text: Sequence[str] = (), split: str = "test", families: Sequence[str] = (), problems: int = 128
) -> Assessment:
    """Load a bundle, which verifies it, and measure it.

    Args:
        bundle: without a suffix.
        text: files and folders, each a domain; none: the text of the run that the bundle lies in.
        split: of the run's text, "val" or "test".
        families: of problems, all levels of each, beside those that it was taught.
        problems: of each family and level.

    Raises: EsperError on a bundle that is not sound, or text that cannot be read or is too short.
    """
    check_asked(bundle, text, families)
    model = load_language_model(bundle)
    run = run_above(bundle)
    config = None if run is None else read_config(run / CONFIG_FILE)
    length = int(model.host.block_size) if config is None else config.model.block_size
    notes: list[str] = []
    if text:
        streams, said = _given_streams(text, model.tokenizer, notes), ", ".join(text)
    else:
        assert run is not None and config is not None  # check_asked
        streams = _own_streams(config, model, split, notes)
        said = f"{split} split of {shown(run)}"
    card = model.card
    if card.format == "plain" and card.quantizer is not None:
        notes.append("these are master weights, measured as they are: the model for use is the packed one beside them")
    return Assessment(
        model=str(bundle),
        phase=card.phase,
        format=card.format,
        bytes=bundle_paths(bundle)[0].stat().st_size,
        parameters=plain_bytes(build_network(card.architecture)) // 4,
        length=length,
        latency_ms=latency_ms(model, length),
        text=said,
        domains={name: _score(name, model, stream, length) for name, stream in streams.items()},
        lessons=[_answered(model, phase, lesson, problems) for phase, lesson in _lessons(card, families)],
        notes=notes,
    )


def _own_streams(config: ForgeConfig, model: LanguageModel, split: str, notes: list[str]) -> "dict[str, Tensor]":
    corpus = build_corpus(config.corpus, model.tokenizer)
    if corpus.fingerprint != model.card.data_fingerprint:
        notes.append("the text has changed since the model was made: what it was trained on may be among it")
    return {name: getattr(domain, split) for name, domain in corpus.domains.items()}


def _given_streams(text: Sequence[str], tokenizer: Tokenizer, notes: list[str]) -> "dict[str, Tensor]":
    streams = {}
    for domain, path in _GivenText(name="text", paths=list(text)).domain_paths().items():
        found = b"".join(file.texts[domain] for file in own_files("--text", [path], domain, 0, MOST_TEXT_BYTES + 1))
        if len(found) > MOST_TEXT_BYTES:
            notes.append(f"of {path}, {MOST_TEXT_BYTES:,} bytes were read")
        streams[domain] = tokenizer.encode_bytes(found[:MOST_TEXT_BYTES])
    return streams


def _score(domain: str, model: LanguageModel, stream: "Tensor", length: int) -> DomainScore:
    try:
        scores = window_losses(model, stream, length)
    except ForgeError as error:
        raise ForgeError(f"{domain}: {error}") from error
    return DomainScore(scores.bits_per_byte, 100.0 * scores.top1, len(scores.nats))


def _lessons(card: ModelCard, families: Sequence[str]) -> Iterator[tuple[str | None, Lesson]]:
    """Each family and level by itself, with the phase that taught it: those of the card, then those that are asked."""
    for lesson in card.lessons:
        for family, levels in lesson.families.items():
            for level in levels:
                yield lesson.phase, replace(lesson, families={family: [level]})
    for family in dict.fromkeys(families):
        for level in range(1, FAMILIES[family].levels + 1):
            yield None, Lesson(phase="evaluate", families={family: [level]})


def _answered(model: LanguageModel, phase: str | None, lesson: Lesson, problems: int) -> LessonScore:
    ((family, (level,)),) = lesson.families.items()
    accuracy, why = None, ""
    try:
        accuracy = 100.0 * lesson.accuracy(model.host, model.tokenizer, problems)
    except ForgeError as error:  # as where its prompts are longer than the context
        why = first_line(error)
    return LessonScore(phase, lesson.style, family, level, problems, accuracy, why)
