"""The whole configuration of a forge run; free of torch."""

import re
from dataclasses import dataclass
from pathlib import Path

from esper.checks import in_range, one_of, require, spelled
from esper.config.checks import distinct
from esper.config.telemetry import TelemetryConfig
from esper.errors import ConfigError
from esper.forge.baking.config import BakingConfig
from esper.forge.bitnet.config import BitnetConfig
from esper.forge.cognate.config import CognateConfig
from esper.forge.compression.config import CompressionConfig
from esper.forge.curriculum.config import CurriculumConfig
from esper.forge.evomerge.config import EvomergeConfig
from esper.forge.experts.config import ExpertsConfig
from esper.forge.phase import CONTROLS, PHASES
from esper.forge.quietstar.config import QuietstarConfig
from esper.tasks.settings import CorpusConfig

PHASES.declare("cognate", CognateConfig, "esper.forge.cognate.phase:build_cognate")
PHASES.declare("evomerge", EvomergeConfig, "esper.forge.evomerge.phase:build_evomerge")
PHASES.declare("quietstar", QuietstarConfig, "esper.forge.quietstar.phase:build_quietstar")
PHASES.declare("bitnet", BitnetConfig, "esper.forge.bitnet.phase:build_bitnet")
PHASES.declare("curriculum", CurriculumConfig, "esper.forge.curriculum.phase:build_curriculum")
PHASES.declare("baking", BakingConfig, "esper.forge.baking.phase:build_baking")
PHASES.declare("experts", ExpertsConfig, "esper.forge.experts.phase:build_experts")
PHASES.declare("compression", CompressionConfig, "esper.forge.compression.phase:build_compression")

# The whole way; not as PHASES has them, where what was imported first stands first.
_WAY = ("cognate", "evomerge", "quietstar", "bitnet", "curriculum", "baking", "experts", "compression")
# Every phase's place on it, which its folder is named after: "4-bitnet".
PLACES = {name: place for place, name in enumerate(_WAY, start=1)}
# Where their gates fail, the way goes on from what was there before them.
OPTIONAL = ("evomerge", "quietstar", "curriculum", "baking", "experts")


@dataclass(kw_only=True)
class ModelConfig:
    """The decoder that all phases work on; see `esper.kasmina.decoder.Decoder`."""

    n_embd: int
    n_head: int
    n_layer: int
    block_size: int
    window: int | None

    def __post_init__(self) -> None:
        in_range("model.n_embd", self.n_embd, 8, 16_384)
        in_range("model.n_head", self.n_head, 1, 1024)
        in_range("model.n_layer", self.n_layer, 1, 256)
        in_range("model.block_size", self.block_size, 2, 65_536)
        is_even = self.n_embd % self.n_head == 0 and self.n_embd // self.n_head % 2 == 0
        require(
            is_even, "model.n_head", self.n_head, f"a divisor of model.n_embd={self.n_embd} that leaves an even width"
        )
        if self.window is not None:
            in_range("model.window", self.window, 1, self.block_size)


@dataclass(kw_only=True)
class ForgeConfig:
    """Values live in conf/forge.yaml and conf/forge/; a field without a value there is an error."""

    name: str
    size: str
    seed: int
    threads: int | None
    controls: str
    phases: list[str]
    phase: str | None
    input: str | None
    resume: str | None
    tokenizer: str
    model: ModelConfig
    corpus: CorpusConfig
    cognate: CognateConfig
    evomerge: EvomergeConfig
    quietstar: QuietstarConfig
    bitnet: BitnetConfig
    curriculum: CurriculumConfig
    baking: BakingConfig
    experts: ExpertsConfig
    compression: CompressionConfig
    telemetry: TelemetryConfig

    def __post_init__(self) -> None:
        plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", self.name) is not None
        require(plain, "name", self.name, "letters, digits, dots, dashes and underscores (it names a folder)")
        in_range("seed", self.seed, 0, 2**31 - 1)
        if self.threads is not None:
            in_range("threads", self.threads, 1, 1024)
        one_of("controls", self.controls, CONTROLS)
        if self.phase is not None:
            one_of("phase", self.phase, PHASES)
        distinct("phases", self.phases)
        for name in self.phases:
            one_of("phases", name, PHASES)
        places = [PLACES[name] for name in self.phases]
        require(places == sorted(places), "phases", self.phases, f"them in their order: {', '.join(PLACES)}")
        if self.resume is not None:
            raise ConfigError(
                f"resume={self.resume}: belongs on the command line: python -m esper.forge resume=RUN_DIR"
            )
        if self.way[0] != "cognate" and self.input is None:
            raise ConfigError(
                f"input=null: {self.way[0]} works on what an earlier phase has left\n"
                f"  name it, as in: python -m esper.forge phase={self.way[0]} input=outputs/forge_small/ID"
            )
        if self.way[0] == "cognate" and self.input is not None:
            raise ConfigError(
                f"input={self.input}: cognate starts from text alone; leave input out, or another phase first"
            )

        is_one = self.corpus.name == "text" and len(self.corpus.paths) == 1
        if is_one and {"cognate", "evomerge"} <= set(self.way):
            others = ",".join(name for name in self.way if name != "evomerge")
            raise ConfigError(
                f"{self.corpus.paths_key}={spelled(self.corpus.paths)}: evomerge merges the specialists of two domains "
                f"or more, and each path is one\n  name another, or leave it out: 'phases=[{others}]'"
            )

    @property
    def way(self) -> list[str]:
        """The phases that are run, in order."""
        return [self.phase] if self.phase else list(self.phases)

    def check_input(self) -> None:
        """Raise ConfigError where what is to be read is not there; nothing is loaded."""
        if self.input is not None and not Path(self.input).exists() and not Path(f"{self.input}.json").exists():
            raise ConfigError(f"input={self.input}: there is no such folder or bundle")
