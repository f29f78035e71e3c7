"""Which phases are run, which are not run again, and what a failed one does to the way."""

from dataclasses import replace
from pathlib import Path

import pytest

from esper.errors import ForgeError
from esper.forge.bundles import save_language_model
from esper.forge.composing import compose
from esper.forge.config import ForgeConfig
from esper.forge.launch import make_context
from esper.forge.phase import PhaseResult
from esper.forge.pipeline import Pipeline, bundle_checksums
from esper.forge.records import PhaseRecord, phase_folder
from tests.forge.models import network, tokenizer


@pytest.fixture(scope="module")
def config() -> ForgeConfig:
    return compose(["size=nano", "phases=[cognate,evomerge,bitnet,compression]"])


class Begun(Exception):
    """A phase is about to run."""


def write_model(folder: Path, seed: int) -> None:
    model = network(seed, block_size=64)
    save_language_model(folder / "model", model, tokenizer(), phase="test", seed=seed, data_fingerprint="")


class Way:
    """A pipeline in a folder, what it has said, and which phases it has begun."""

    def __init__(self, config: ForgeConfig, folder: Path) -> None:
        self.said: list[str] = []
        self.begun: list[tuple[str, bool]] = []
        self.over: list[str] = []
        self.folder = folder
        self.pipeline = Pipeline(config, folder, lambda name: make_context(config), self.begin, self.said.append)

    def begin(self, name: str, goes_on: bool) -> None:
        self.begun.append((name, goes_on))
        raise Begun

    def run(self) -> PhaseRecord | None:
        return self.pipeline.run(lambda record: self.over.append(record.phase))

    def done(self, name: str, sound: str | None, is_success: bool = True) -> Path:
        """Write what this phase would have left, working on that one."""
        folder = phase_folder(self.folder, name)
        folder.mkdir(parents=True)
        write_model(folder, seed=len(name))
        error = None if is_success else "bits 3, at most 2 is asked"
        result = PhaseResult(success=is_success, phase=name, error=error, metrics={}, artifacts={}, duration_s=1.0)
        key = self.pipeline.key(name, None if sound is None else bundle_checksums(phase_folder(self.folder, sound)))
        PhaseRecord(folder, name, "finished" if is_success else "failed", key, None, result).write()
        return folder


def test_what_is_done_is_not_done_again(config, tmp_path):
    way = Way(config, tmp_path)
    for name, sound in zip(config.phases, [None, *config.phases], strict=False):
        way.done(name, sound)
    assert way.run() is None
    assert way.over == config.phases and not way.begun and not way.said


def test_the_way_goes_on_without_an_optional_phase_that_failed(config, tmp_path):
    way = Way(config, tmp_path)
    way.done("cognate", None)
    way.done("evomerge", "cognate", is_success=False)
    way.done("bitnet", "cognate")
    way.done("compression", "bitnet")
    assert way.run() is None and way.over == config.phases
    assert way.said == ["evomerge failed its gates, and the way goes on without it: bits 3, at most 2 is asked"]


def test_it_ends_at_any_other_phase_that_failed(config, tmp_path):
    way = Way(config, tmp_path)
    way.done("cognate", None)
    way.done("evomerge", "cognate")
    way.done("bitnet", "evomerge", is_success=False)
    failed = way.run()
    assert failed is not None and failed.phase == "bitnet" and way.over == ["cognate", "evomerge", "bitnet"]


def test_what_a_changed_value_concerns_is_put_aside_and_nothing_before_it(config, tmp_path):
    way = Way(config, tmp_path)
    way.done("cognate", None)
    kept = way.done("evomerge", "cognate")
    stale = way.done("bitnet", "evomerge")
    changed = Way(replace(config, bitnet=replace(config.bitnet, distill=1.0)), tmp_path)
    with pytest.raises(Begun):
        changed.run()
    assert changed.begun == [("bitnet", False)] and changed.over == ["cognate", "evomerge"]
    assert "bitnet is stale" in changed.said[0]
    assert kept.exists() and not stale.exists() and stale.with_name("4-bitnet.1").is_dir()


def test_a_finished_phase_whose_model_is_damaged_is_named_and_nothing_is_moved(config, tmp_path):
    way = Way(config, tmp_path)
    damaged = way.done("cognate", None)
    way.done("evomerge", "cognate")
    (damaged / "model.safetensors").write_bytes(b"short")
    with pytest.raises(ForgeError, match="to have cognate run anew"):
        way.run()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1-cognate", "2-evomerge"]


def test_a_key_follows_from_all_that_decides_and_from_nothing_else(config, tmp_path):
    sound = Way(config, tmp_path).done("cognate", None)

    def of(**changed) -> str:
        return Way(replace(config, **changed), tmp_path).pipeline.key("bitnet", bundle_checksums(sound))

    key = of()
    for changed in (
        {"seed": 1},
        {"controls": "all"},
        {"tokenizer": "tokens.json"},
        {"bitnet": replace(config.bitnet, epochs=1)},
        {"corpus": replace(config.corpus, test_bytes=9999)},
        {"model": replace(config.model, window=8)},
    ):
        assert of(**changed) != key, changed
    assert of(evomerge=replace(config.evomerge, sigma=1.0)) == of(name="other", threads=1) == key
    (sound / "phase.json").write_text("{}")
    assert of() == key
    write_model(sound, seed=99)
    assert of() != key


def test_an_input_that_holds_nothing_is_refused_before_anything_is_written(config, tmp_path):
    way = Way(replace(config, phases=["bitnet"], input=str(tmp_path / "absent")), tmp_path / "run")
    with pytest.raises(ForgeError, match="there is no model"):
        way.run()
    assert not (tmp_path / "run").exists()
