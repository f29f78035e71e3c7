"""`esper evaluate` and `esper analyze` of what the forge has made, driven as a user does."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from esper.checkpoint.bundle import amend_metadata
from esper.cli import main
from esper.forge.bitnet.bundle import TERNARY, quantizer_card
from esper.forge.bitnet.packing import pack_network
from esper.forge.bitnet.quantizer import quantize_layers, quantized_layers, ternarize
from esper.forge.bundles import load_language_model, parent, save_language_model
from esper.forge.composing import compose, read_config
from esper.forge.evaluation import window_losses
from esper.forge.examples import pad_examples
from esper.forge.launch import make_context, start
from esper.forge.lessons import Lesson
from esper.forge.measuring import measure_bundle
from esper.forge.phase import Gate, conclude
from esper.forge.records import PhaseRecord, phase_folder, read_phase
from esper.forge.training import next_token_loss
from esper.tasks.procedural import FAMILIES
from tests.forge.models import network, tokenizer

TINY = (
    "size=nano",
    "phases=[cognate]",
    "telemetry.console=off",
    "telemetry.report=false",
    "model.n_embd=16",
    "model.n_layer=1",
    "cognate.trunk_training.steps=2",
    "cognate.specialist_training.steps=1",
    "corpus=text",
    "corpus.train_bytes=20000",
    "corpus.val_bytes=1000",
    "corpus.test_bytes=1000",
)
TAUGHT = Lesson(phase="curriculum", families={"parity": [1, 2]})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of cognate, after which a phase has made its trunk ternary; and the text that both have read."""
    folder = tmp_path_factory.mktemp("forge")
    for domain in ("even", "odd"):
        generator = torch.Generator().manual_seed(len(domain))
        letters = 97 + torch.randint(13, (22_000,), generator=generator) * 2 + (domain == "odd")
        (folder / f"{domain}.txt").write_bytes(bytes(letters.tolist()))
    config = compose([*TINY, f"corpus.paths=['{folder}/even.txt','{folder}/odd.txt']"])
    run = folder / "run"
    run.mkdir()
    start(config, run)
    cognate, context = read_phase(run / "1-cognate"), make_context(config)
    PhaseRecord(
        cognate.folder, "cognate", "finished", cognate.key, None, cognate.result, cognate.continuity, cognate.notes
    ).write()
    bitnet = phase_folder(run, "bitnet")
    trunk = load_language_model(run / "1-cognate").host
    given = {"phase": "bitnet", "seed": 0, "data_fingerprint": context.corpus.fingerprint, "lessons": [TAUGHT]}
    given |= {"parents": [parent(run / "1-cognate", "teacher")], "quantizer": quantizer_card("int8")}
    quantized = quantize_layers(trunk)
    packed = pack_network(quantized, "int8")
    path = save_language_model(bitnet / "model", quantized, tokenizer(), format=TERNARY, tensors=packed, **given)
    gates = (Gate("ratio", "at_least", 7.0), Gate("score", "at_least", 0.9))
    result = conclude("bitnet", gates, {"ratio": 9.0, "score": 0.5}, {"model": path}, 0.0)
    PhaseRecord(bitnet, "bitnet", "finished", "key", None, result, measure_bundle(bitnet, context), ("a note",)).write()
    return run


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made.parent, tmp_path / "made")
    return tmp_path / "made" / "run"


def answered(capsys, *arguments: object) -> list[dict]:
    assert main([str(argument) for argument in arguments]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert not out and 1 <= len(err.splitlines()) <= 2, err
    return err


@pytest.mark.slow
def test_a_runs_last_sound_model_is_measured_as_the_run_has_measured_it(made, capsys):
    (found,) = answered(capsys, "evaluate", made, "--json")
    known = read_phase(made / "4-bitnet").continuity
    assert {name: score["bits_per_byte"] for name, score in found["domains"].items()} == {
        name: pytest.approx(known[f"bits_per_byte/{name}"], abs=1e-9) for name in ("even", "odd")
    }
    assert sum(score["top1"] for score in found["domains"].values()) / 2 == pytest.approx(known["top1"])
    assert found["bytes"] == known["bytes"] == (made / "4-bitnet" / "model.safetensors").stat().st_size
    assert found["parameters"] == sum(p.numel() for p in load_language_model(made / "1-cognate").host.parameters())
    assert (found["phase"], found["format"], found["canary"], found["length"]) == (
        "bitnet",
        "ternary",
        "reproduces",
        64,
    )
    assert found["latency_ms"] > 0 and found["notes"] == [] and found["text"].startswith("test split of ")
    assert [(s["phase"], s["style"], s["family"], s["level"]) for s in found["lessons"]] == [
        ("curriculum", "answer", "parity", level) for level in (1, 2)
    ]


def test_another_split_is_another_text(made, capsys):
    test, val = (
        answered(capsys, "evaluate", made / "1-cognate" / "even", "--json", "--split", split)[0]["domains"]
        for split in ("test", "val")
    )
    assert test.keys() == val.keys() and test["odd"]["bits_per_byte"] != val["odd"]["bits_per_byte"]


def test_text_of_the_users_own_is_measured_whole_and_a_path_is_a_domain(made, tmp_path, capsys):
    (tmp_path / "mine.txt").write_bytes(b"a line of text, and another. " * 20)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "b.md").write_bytes(b"x" * 300)
    (found,) = answered(capsys, "evaluate", made, "--json", "--text", tmp_path / "mine.txt", tmp_path / "folder")
    model = load_language_model(made / "4-bitnet")
    assert list(found["domains"]) == ["mine", "folder"]
    for name, text in {"mine": (tmp_path / "mine.txt").read_bytes(), "folder": b"x" * 300}.items():
        scores = window_losses(model, tokenizer().encode_bytes(text), 64)
        assert found["domains"][name] == {
            "bits_per_byte": pytest.approx(scores.bits_per_byte),
            "top1": pytest.approx(100 * scores.top1),
            "windows": len(scores.nats),
        }


def test_of_long_text_a_mebibyte_is_read_and_that_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("esper.forge.assessing.MOST_TEXT_BYTES", 1000)
    save_language_model(tmp_path / "model", network(), tokenizer(), phase="cognate", seed=0, data_fingerprint="")
    (tmp_path / "long.txt").write_bytes(b"ab" * 600)
    (found,) = answered(capsys, "evaluate", tmp_path, "--json", "--text", tmp_path / "long.txt")
    assert found["domains"]["long"]["windows"] == 999 // 32
    assert found["notes"] == [f"of {tmp_path}/long.txt, 1,000 bytes were read"]


def test_models_stand_side_by_side_and_what_one_lacks_is_a_dash(made, capsys):
    assert main(["evaluate", str(made / "1-cognate"), str(made), "--problems", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.partition("  ")[0]: line.split()[-2:] for line in lines[1:]}
    assert rows["phase"] == ["cognate", "bitnet"] and rows["format"] == ["plain", "ternary"]
    assert rows["parity, level 1: right as answer, taught by curriculum"][0] == "-"
    assert rows["parity, level 1: right as answer, taught by curriculum"][1].endswith("%")
    assert {"even: bits a byte", "odd: next token right", "canary", "one window, ms"} <= rows.keys()


@pytest.mark.slow
def test_what_a_model_was_taught_is_found_right_level_by_level(tmp_path, capsys):
    lesson = Lesson(phase="curriculum", families={"parity": [1]})
    model = network(block_size=48).train()
    examples = lesson.examples(64, torch.Generator().manual_seed(0), tokenizer())
    x, y = pad_examples(examples, tokenizer().pad_token_id, 24)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    for _ in range(40):
        next_token_loss(model, x, y).backward()
        optimizer.step()
        optimizer.zero_grad()
    given = {"phase": "curriculum", "seed": 0, "data_fingerprint": "", "lessons": [lesson]}
    save_language_model(tmp_path / "model", model.eval(), tokenizer(), **given)
    (tmp_path / "text.txt").write_bytes(b"x" * 100)
    arguments = ("evaluate", tmp_path, "--json", "--text", tmp_path / "text.txt", "--problems", 32)
    (taught, *others) = answered(capsys, *arguments, "--family", "running_sum")[0]["lessons"]
    assert taught["accuracy"] == pytest.approx(100 * lesson.accuracy(model, tokenizer(), 32))
    assert taught["accuracy"] > 40 and taught["phase"] == "curriculum"
    assert [score["level"] for score in others] == list(range(1, FAMILIES["running_sum"].levels + 1))
    assert {(score["family"], score["phase"]) for score in others} == {("running_sum", None)}
    assert all(score["accuracy"] < 40 for score in others)


def test_problems_that_are_longer_than_the_context_are_no_failure(tmp_path, capsys):
    save_language_model(
        tmp_path / "model", network(block_size=4), tokenizer(), phase="cognate", seed=0, data_fingerprint=""
    )
    (tmp_path / "text.txt").write_bytes(b"x" * 100)
    assert main(["evaluate", str(tmp_path), "--text", str(tmp_path / "text.txt"), "--family", "running_sum"]) == 0
    out, err = capsys.readouterr()
    rows = [line.split() for line in out.splitlines() if line.startswith("running_sum, level")]
    assert len(rows) == FAMILIES["running_sum"].levels and {row[-1] for row in rows} == {"-"}
    assert "leaves no room for an answer" in err


def test_text_that_has_changed_since_is_told_of(run, capsys):
    config = read_config(run / "config.yaml")
    text = run.parent / "even.txt"
    (run / "config.yaml").write_text(
        (run / "config.yaml").read_text().replace(str(Path(config.corpus.paths[0]).parent), str(run.parent))
    )
    (found,) = answered(capsys, "evaluate", run, "--json")
    assert found["notes"] == []
    text.write_bytes(text.read_bytes()[::-1])
    (found,) = answered(capsys, "evaluate", run, "--json")
    assert found["notes"] == ["the text has changed since the model was made: what it was trained on may be among it"]


def test_a_bundle_outside_of_a_run_wants_text(tmp_path, capsys):
    save_language_model(tmp_path / "python", network(), tokenizer(), phase="cognate", seed=0, data_fingerprint="")
    said = refused(capsys, "evaluate", tmp_path / "python")
    assert "lies in no run of the forge" in said and f"esper evaluate {tmp_path}/python --text FILE" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["evaluate", "RUN", "--suite", "long"], "--suite: for runs of esper.run alone, and RUN is a language model"),
        (["evaluate", "RUN", "--seeds", "3"], "--seeds: for runs of esper.run alone"),
        (["evaluate", "RUN", "absent"], "absent: it is no language model, as others named here are"),
        (
            ["evaluate", "absent", "--family", "parity"],
            "--family: for language models alone, and absent is",
        ),
        (["evaluate", "RUN", "--family", "parrity"], "family 'parrity' is not known; expected one of"),
        (["evaluate", "RUN", "--text", "absent.txt"], "--text=absent.txt: cannot be read (No such file or directory)"),
        (["evaluate", "RUN", "--text", "docs", "docs"], "--text=[docs,docs]: docs is given twice"),
        (["evaluate", "RUN/1-cognate/checkpoints/trunk_training"], "of kind 'language_training', and no language"),
        (["analyze", "RUN", "--metric", "parameters"], "--metric: for runs of esper.run alone"),
        (["analyze", "RUN", "--format", "csv"], "--format csv: language models are told of as table or json"),
        (["analyze", "RUN/1-cognate/checkpoints/trunk_training"], "of kind 'language_training', and no language"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line_or_two(made, capsys, arguments, said):
    err = refused(capsys, *(argument.replace("RUN", str(made)) for argument in arguments))
    assert said.replace("RUN", str(made)) in err


def test_a_run_of_which_nothing_was_passed_yet_is_no_failure_of_ours(run, capsys):
    shutil.rmtree(run / "4-bitnet")
    record = json.loads((run / "1-cognate" / "phase.json").read_text())
    (run / "1-cognate" / "phase.json").write_text(json.dumps(record | {"status": "running"}))
    for command in ("evaluate", "analyze", "chat"):
        assert "none of its phases was passed yet\n  esper runs says how far it is" in refused(capsys, command, run)


def test_a_damaged_bundle_is_told_of_in_a_line(run, capsys):
    file = run / "4-bitnet" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    for command in ("evaluate", "analyze"):
        assert f"{file} is cut short" in refused(capsys, command, run)


def test_every_byte_of_the_file_is_accounted_for(made, capsys):
    (found,) = answered(capsys, "analyze", made, "--format", "json")
    size = (made / "4-bitnet" / "model.safetensors").stat().st_size
    assert sum(found["parts"].values()) == size
    for part in ("embedding", "attention", "mlp", "norms"):
        assert found["parts"][part] == sum(t["bytes"] for t in found["tensors"] if t["part"] == part) > 0
    assert "other" not in found["parts"] and 0 < found["parts"]["header"] < size / 2


def test_trits_are_counted_as_they_are(made, capsys):
    (found,) = answered(capsys, "analyze", made / "4-bitnet", "--format", "json")
    layers = dict(quantized_layers(quantize_layers(load_language_model(made / "1-cognate").host)))
    told = {tensor["name"]: tensor for tensor in found["tensors"]}
    for name, layer in layers.items():
        trits, _ = ternarize(layer.weight)
        tensor = told[f"{name}.trits"]
        assert tensor["shape"] == list(layer.weight.shape) and tensor["kind"] == "trits"
        assert tensor["trits"] == [pytest.approx(float((trits == sign).float().mean())) for sign in (-1, 0, 1)]
        assert tensor["zeros"] == tensor["trits"][1] and tensor["bytes"] == -(-trits.numel() // 5)
    plain = answered(capsys, "analyze", made / "1-cognate", "--format", "json")[0]["tensors"]
    assert {tensor["kind"] for tensor in plain} == {"float32"} and all(t["trits"] is None for t in plain)


def test_a_compressed_model_is_told_of_tensor_by_tensor(tmp_path, capsys):
    from esper.forge.compression.bundle import save_compressed
    from esper.forge.compression.codec import encode
    from esper.forge.compression.config import PlainConfig, TernaryConfig
    from esper.forge.compression.container import pack

    save_language_model(tmp_path / "model", network(), tokenizer(), phase="cognate", seed=0, data_fingerprint="")
    model = load_language_model(tmp_path)
    encoded = {
        name: encode(tensor, *(("ternary", TernaryConfig()) if "mlp." in name else ("plain", PlainConfig())))
        for name, tensor in model.host.state_dict().items()
    }
    path = tmp_path / "small"
    given = {"phase": "compression", "seed": 0, "parents": [parent(tmp_path / "model", "compressed from")]}
    save_compressed(path, model, pack(encoded), **given)
    (found,) = answered(capsys, "analyze", path, "--format", "json")
    assert sum(found["parts"].values()) == path.with_suffix(".safetensors").stat().st_size
    told = {tensor["name"]: tensor for tensor in found["tensors"]}
    assert told["layers.0.mlp.up.weight"]["kind"] == "ternary" and sum(told["layers.0.mlp.up.weight"]["trits"]) == 1
    assert told["norm.weight"]["kind"] == "plain" and told["norm.weight"]["shape"] == [16]


def states(capsys, run: Path) -> dict[str, str]:
    (found,) = answered(capsys, "analyze", run / "1-cognate" / "odd", "--format", "json")
    return {ancestor["relation"]: ancestor["state"] for ancestor in found["ancestors"]}


def test_parents_are_verified_or_told_to_be_missing(run, capsys):
    (found,) = answered(capsys, "analyze", run, "--format", "json")
    assert [(a["relation"], a["phase"], a["generation"], a["state"]) for a in found["ancestors"]] == [
        ("teacher", "cognate", 1, "verified")
    ]
    trunk = run / "1-cognate" / "model.safetensors"
    kept = trunk.read_bytes()
    trunk.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    assert "is altered: its sha256 is not its sidecar's" in states(capsys, run)["trunk"]
    shutil.copy(run / "1-cognate" / "even.safetensors", trunk)
    shutil.copy(run / "1-cognate" / "even.json", trunk.with_suffix(".json"))
    assert states(capsys, run)["trunk"] == "another by now"
    trunk.unlink()
    trunk.with_suffix(".json").unlink()
    assert states(capsys, run) == {"trunk": "missing"}


def test_parents_that_name_each_other_are_followed_once(run, capsys):
    model, odd = run / "1-cognate" / "model", run / "1-cognate" / "odd"
    amend_metadata(model, parents=[parent(odd, "circle") | {"path": "odd.safetensors"}])
    (found,) = answered(capsys, "analyze", odd, "--format", "json")
    assert [(a["relation"], a["is_known"]) for a in found["ancestors"]] == [
        ("trunk", False), ("circle", False), ("trunk", True)
    ]  # fmt: skip


def test_of_a_run_it_is_told_what_each_phase_did_to_every_figure(made, capsys):
    (found,) = answered(capsys, "analyze", made, "--format", "json")
    cognate, bitnet = found["phases"]
    before, after = (read_phase(made / name).continuity for name in ("1-cognate", "4-bitnet"))
    assert cognate["figures"] == {name: [value, None] for name, value in before.items()}
    assert bitnet["figures"].pop("lesson/curriculum/answer") == [after["lesson/curriculum/answer"], None]
    assert bitnet["figures"] == {name: [after[name], pytest.approx(after[name] - before[name])] for name in before}
    assert bitnet["gates"] == {"ratio": True, "score": False} and bitnet["notes"] == ["a note"]
    assert cognate["gates"].keys() >= {"is_causal", "even/bits_below_ngram"} and cognate["gates"]["is_causal"]
    assert main(["analyze", str(made)]) == 0
    out = capsys.readouterr().out
    assert "1 of 2; not score" in out and "bitnet: a note" in out and "curriculum/answer: parity" in out
    assert "bitnet: failed: score 0.5, at least 0.9 is asked" in out


def test_what_a_phase_that_failed_did_is_nobodys_beginning(run, capsys):
    record = json.loads((run / "1-cognate" / "phase.json").read_text())
    (run / "1-cognate" / "phase.json").write_text(json.dumps(record | {"status": "failed"}))
    phases = answered(capsys, "analyze", run, "--format", "json")[0]["phases"]
    assert phases[0]["status"] == "failed" and {change for _, change in phases[1]["figures"].values()} == {None}
