"""Members as files: they load and run without esper, and give what the member gives."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import esper
from esper.api.handle import RunHandle
from esper.errors import ConfigError, EsperError, RunError
from esper.kasmina import MorphogeneticModel, TransformerHost
from esper.leyline import SeedStage
from esper.runner.checkpointing import load_growth, load_member
from esper.simic.features import TaskConfig
from esper.study.export.exporting import number_of, program_of
from esper.study.export.module_file import module_file
from tests.api.conftest import TINY

# Without esper: whatever would import it fails.
LOAD = """
import sys
class Blocked:
    def find_spec(self, name, *_):
        assert name.partition(".")[0] != "esper", name
sys.meta_path.insert(0, Blocked())
import torch
path, given, wanted = sys.argv[1:]
if path.endswith(".pt2"):
    network = torch.export.load(path).module()
elif path.endswith(".safetensors"):
    sys.path.insert(0, path.rpartition("/")[0])
    from net import load
    network = load()
given, wanted = torch.load(given), torch.load(wanted)
for count in (1, 2, 7):
    with torch.no_grad():
        assert (network(given[:count]) - wanted[:count]).abs().max() <= 1e-6
"""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt2", ".safetensors"])
def test_a_file_runs_without_esper_and_gives_what_the_member_gives(suffix: str, run: RunHandle, tmp_path: Path) -> None:
    path = esper.export(run, member=1, to=tmp_path / f"net{suffix}")
    given = torch.randn(7, 1, 8, 8)
    with torch.no_grad():
        wanted = run.member(1)(given)
    for name, tensor in (("given", given), ("wanted", wanted)):
        torch.save(tensor, tmp_path / name)
    command = [sys.executable, "-c", LOAD, str(path), str(tmp_path / "given"), str(tmp_path / "wanted")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, cwd=tmp_path, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert path.stat().st_size < 200_000  # one member's tensors, and not the whole population's


@pytest.mark.slow
def test_onnx_keeps_the_batch_free(run: RunHandle, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    from onnx.reference import ReferenceEvaluator

    model = onnx.load(esper.export(run, member=0, to=tmp_path / "net.onnx"))
    given = torch.randn(5, 1, 8, 8)
    (out,) = ReferenceEvaluator(model).run(None, {model.graph.input[0].name: given.numpy()})
    with torch.no_grad():
        assert (torch.from_numpy(out) - run.member(0)(given)).abs().max() <= 1e-5


def in_every_stage(model: MorphogeneticModel, blueprint: str, blend: str) -> list[SeedStage]:
    """Move the seed of a slot on by one stage at each call of next()."""
    slot = model.slots["early"]
    model.germinate_seed(blueprint, "s", "early", blend)
    for parameter in slot.parameters():  # it would be the identity
        torch.nn.init.normal_(parameter, std=0.3)
    yield slot.stage
    slot.state.transition(SeedStage.TRAINING)
    yield slot.stage
    slot.start_blending(4)
    slot.step(2)
    yield slot.stage
    slot.step(2)
    slot.state.transition(SeedStage.PROBATIONARY)
    yield slot.stage
    slot.state.transition(SeedStage.FOSSILIZED)
    yield slot.stage


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> RunHandle:
    words = [word for word in TINY if not word.startswith("policy")]
    place = tmp_path_factory.mktemp("runs") / "bare"
    return esper.launch(*words, "policy=static", f"hydra.run.dir={place}", epochs=1)


@pytest.mark.parametrize(
    ("blueprint", "blend"), [("conv_light", "gated"), pytest.param("attention", "linear", marks=pytest.mark.slow)]
)
def test_a_seed_is_in_it_as_its_stage_has_it(blueprint: str, blend: str, bare: RunHandle, tmp_path: Path) -> None:
    member = load_member(bare.folder, 0)
    given = torch.randn(3, 1, 8, 8)
    seen = {}
    for stage in in_every_stage(member, blueprint, blend):
        with torch.no_grad():
            wanted = member(given)
            program, example = program_of(member, (1, 8, 8), "it")
            assert (program.module()(given) - wanted).abs().max() <= 1e-6, stage
        seen[stage] = wanted
        text, tensors = module_file(program, example, "net.safetensors")
        is_seen = any("seed" in name for name in tensors)
        assert is_seen == (stage not in (SeedStage.GERMINATED, SeedStage.TRAINING))
        space = {"__file__": str(tmp_path / "net.py")}
        exec(text, space)
        network = space["Network"]()
        network.load_state_dict(tensors)
        with torch.no_grad():
            assert (network.eval()(given) - wanted).abs().max() <= 1e-6, stage
    assert len(seen) == 5
    assert torch.equal(seen[SeedStage.GERMINATED], seen[SeedStage.TRAINING])
    assert not torch.equal(seen[SeedStage.TRAINING], seen[SeedStage.BLENDING])


@pytest.mark.slow
def test_flex_attention_is_exported_as_what_it_computes() -> None:
    host = TransformerHost(vocab_size=20, n_embd=16, n_head=2, n_layer=3, block_size=8)
    model = MorphogeneticModel(host, slots=["early"], task_config=TaskConfig(topology="transformer", blending_steps=4))
    for stage in in_every_stage(model, "flex_attention", "linear"):
        tokens = torch.randint(0, 20, (3, 8))
        with torch.no_grad():
            wanted = model.eval()(tokens)
            program, example = program_of(model, (8,), "it")
            text, tensors = module_file(program, example, "net.safetensors")
            space = {"__file__": "net.py"}
            exec(text, space)
            network = space["Network"]()
            network.load_state_dict(tensors)
            for given in (program.module()(tokens), network.eval()(tokens)):
                assert (given - wanted).abs().max() <= 1e-6 * max(1.0, wanted.abs().max()), stage
    assert "flex" not in text


@pytest.mark.slow
def test_a_language_model_is_exported_for_windows_of_its_length(tmp_path: Path) -> None:
    words = ["experiment=language", "debug=smoke", "policy=static", "engine=sequential", "telemetry.console=off"]
    sizes = ["host.n_embd=16", "host.n_head=2", "host.n_layer=3", "telemetry.report=false", "engine.members=1"]
    run = esper.launch(*words, *sizes, f"hydra.run.dir={tmp_path}/run", epochs=1)
    path = esper.export(run, to=tmp_path / "net.pt2")
    program = torch.export.load(path).module()
    length = load_growth(run.folder).task.input_shape[0]
    tokens = torch.randint(0, 50, (3, length))
    with torch.no_grad():
        assert (program(tokens) - run.member(0)(tokens)).abs().max() <= 1e-5


def test_the_best_is_the_grown_member_of_the_highest_validation_score(run: RunHandle, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    scores = run.summary["grown"]["val_accuracy"]
    assert esper.export(run).name == f"member_{scores.index(max(scores))}.pt2"
    assert esper.export(str(run.folder), member="3").name == "member_3.pt2"
    growth = load_growth(run.folder)
    growth.reports()[3].val_accuracy = 100.0  # a twin's
    assert number_of(growth, "best") == scores.index(max(scores))


REFUSED = [
    ({"to": "net.pt"}, "expected a file that ends in .pt2, .onnx or .safetensors; did you mean .pt2?"),
    ({"to": "a-b.safetensors"}, "its module is to be imported as 'a-b'"),
    ({"to": "none/net.pt2"}, "there is no folder none"),
    ({"to": "net.pt2", "member": "beast"}, "member 'beast': expected 'best' or a number"),
    ({"to": "net.pt2", "member": 1.7}, "member 1.7: expected 'best' or a number"),
    ({"to": "net.pt2", "member": True}, "member True: expected 'best' or a number"),
    ({"to": "net.pt2", "member": -1}, "there is no member -1; it has 0 to 3"),
    ({"to": 3}, "to=3: expected a file"),
    ({"to": "class.safetensors"}, "its module is to be imported as 'class'"),
    ({"to": "net.pt2", "member": 4}, "there is no member 4; it has 0 to 3"),
    ({"to": "taken.pt2"}, "taken.pt2 is there already\n  to replace it: --force"),
    ({"to": "beside.safetensors"}, "beside.py is there already"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED)
def test_what_cannot_be_written_is_refused_and_nothing_is(
    given, message, run: RunHandle, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for taken in ("taken.pt2", "beside.py"):
        Path(taken).write_text("mine")
    with pytest.raises(EsperError) as raised:
        esper.export(run, **given)
    assert message in str(raised.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["beside.py", "taken.pt2"]
    assert {path.read_text() for path in tmp_path.iterdir()} == {"mine"}


def test_a_run_that_is_none_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(RunError):
        esper.export(tmp_path / "none", to=tmp_path / "net.pt2")
    assert issubclass(ConfigError, EsperError)
