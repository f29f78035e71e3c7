"""Phase 1 from end to end: what it writes, what its figures say, what it refuses."""

import json
import signal
import time

import pytest
import torch

from esper import load_language_model
from tests.e2e.forge_runs import TINY, bits_per_byte, corpus_of, forge, logged, result, start

pytestmark = pytest.mark.timeout(1200)
DOMAINS = ("cpp", "prose", "python")


@pytest.fixture(scope="module")
def folder(nano_run):
    return nano_run / "1-cognate"


def test_it_leaves_a_trunk_and_a_specialist_of_each_domain(folder):
    trunk = json.loads((folder / "model.json").read_text())
    for domain in DOMAINS:
        card = json.loads((folder / f"{domain}.json").read_text())
        (parent,) = card["metadata"]["parents"]
        assert parent == {"path": "model.safetensors", "sha256": trunk["tensors_sha256"], "relation": "trunk"}
        assert max(DOMAINS, key=lambda each: card["metrics"][f"share/{each}"]) == domain


def test_its_figures_are_those_of_what_lies_on_disk(nano_run, folder):
    corpus, length = corpus_of(nano_run)
    metrics = result(nano_run, "cognate")["result"]["metrics"]
    for name, path in (("trunk", "model"), ("prose", "prose")):
        model = load_language_model(folder / path)
        for domain in DOMAINS:
            measured = bits_per_byte(model, corpus.domains[domain].test, length)
            assert metrics[f"{name}/{domain}/bits_per_byte"] == pytest.approx(measured, abs=1e-4)


def test_each_specialist_is_best_at_home(nano_run):
    metrics = result(nano_run, "cognate")["result"]["metrics"]
    for domain in DOMAINS:
        found = {name: metrics[f"{name}/{domain}/bits_per_byte"] for name in ("trunk", *DOMAINS)}
        assert min(found, key=found.__getitem__) == domain


def test_no_model_looks_ahead(folder):
    model = load_language_model(folder)
    tokens = torch.arange(64)[None] % 256
    with torch.no_grad():
        before = model(tokens)
        for place in range(1, 64):
            changed = tokens.clone()
            changed[0, place:] = 255 - changed[0, place:]
            assert torch.equal(model(changed)[:, :place], before[:, :place])


def test_losses_are_logged_step_by_step_and_fall(nano_run):
    steps, losses = zip(*logged(nano_run, "cognate/trunk_loss"), strict=True)
    assert list(steps) == sorted(set(steps))
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


def test_a_trunk_grows_is_stopped_goes_on_and_passes_through_all_phases(tmp_path):
    process = start(tmp_path, *TINY, "cognate.grow=true", "cognate.grow_epochs=12", "hydra.run.dir=run")
    lines = tmp_path / "run/1-cognate/grown/metrics.jsonl"
    deadline = time.monotonic() + 120
    while (not lines.exists() or lines.read_bytes().count(b"\n") < 3) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=120)[0].decode()
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "esper.forge resume=run" in said and "esper.run" not in said
    assert not (tmp_path / "run/1-cognate/model.json").exists()
    done = forge(tmp_path, "resume=run")
    assert done.code == 0, done.out + done.err
    epochs = [json.loads(line)["epoch"] for line in lines.read_text().splitlines()]
    assert epochs == list(range(13))
    found = result(tmp_path / "run", "cognate")
    card = json.loads((tmp_path / "run/1-cognate/model.json").read_text())
    growth, metrics = card["config"]["growth"], found["result"]["metrics"]
    assert growth and found["notes"][0].startswith(
        f"The trunk grew {growth[0]['blueprint']} behind {growth[0]['slot']}"
    )
    assert 0 < metrics["trunk/seeds_fossilized"] <= metrics["trunk/seeds_planted"]
    corpus, length = corpus_of(tmp_path / "run")
    for phase in ("1-cognate", "2-evomerge", "4-bitnet", "8-compression"):
        model = load_language_model(tmp_path / "run" / phase)
        assert json.loads((tmp_path / "run" / phase / "model.json").read_text())["config"]["growth"] == growth
        assert bits_per_byte(model, corpus.domains["prose"].test[:2000], length) < 8
    assert metrics["trunk/parameters"] == sum(p.numel() for p in load_language_model(lines.parents[1]).parameters())


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["corpus=text", "corpus.paths=[empty]"], "empty"),
        (["corpus=text", "corpus.paths=[short.txt]"], "short"),
        (["corpus=text", "corpus.paths=[long.txt,long.txt]"], "given twice"),
        (["corpus=text", "corpus.paths=[nowhere]"], "nowhere"),
        (["phase=cognate", "input=long.txt"], "starts from text"),
        (["tokenizer=long.txt"], "long.txt"),
        (["cognate.trunk=long.txt"], "long.txt"),
        (["cognate.trunk=long.txt", "cognate.grow=true"], "drop one of the two"),
        (["cognate.grow=true", "cognate.grow_epochs=7"], "cognate.grow_epochs=7"),
        (["model.n_head=3"], "model.n_head=3"),
        (["phases=[bitnet]"], "input"),
        (["phases=[evomerge,cognate]"], "order"),
        (["phases=[cognat]"], "did you mean cognate?"),
        (["cognate.trunc=RUN"], "did you mean cognate.trunk?"),
        (["sice=nano"], "did you mean size?"),
        (["size=nanno"], "did you mean size=nano?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_answered_in_short_and_leaves_nothing(tmp_path, arguments, wanted):
    (tmp_path / "empty").mkdir()
    (tmp_path / "short.txt").write_text("too short")
    (tmp_path / "long.txt").write_text("some text, over and over. " * 4000)
    before = sorted(path.name for path in tmp_path.iterdir())
    done = forge(tmp_path, "size=nano", "hydra.run.dir=run", *arguments)
    assert done.code == 2, done.out + done.err
    assert wanted in done.err
    assert len(done.err.splitlines()) <= 2
    assert sorted(path.name for path in tmp_path.iterdir()) == before
