"""Phase 8 from end to end: sizes are those of files, scores those of what a fresh process makes of them."""

import json
import subprocess
import sys

import pytest
import torch

from esper import load_language_model
from tests.e2e.conftest import environment
from tests.e2e.forge_runs import bits_per_byte, corpus_of, result

pytestmark = pytest.mark.timeout(1200)
PROGRAM = """
import hashlib, sys
import esper
model = esper.load_language_model(sys.argv[1])
digest = hashlib.sha256()
for name, tensor in model.host.state_dict().items():
    digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
print(digest.hexdigest())
"""


@pytest.fixture(scope="module")
def metrics(nano_run):
    return result(nano_run, "compression")["result"]["metrics"]


@pytest.mark.parametrize("name", ["ternary", "gentle", "tight"])
def test_a_file_is_as_small_as_the_record_says(nano_run, metrics, name):
    size = (nano_run / "8-compression" / f"{name}.safetensors").stat().st_size
    assert metrics[f"{name}/bytes"] == size
    plain = sum(4 * p.numel() for p in load_language_model(nano_run / "2-evomerge").parameters())
    assert metrics[f"{name}/ratio"] == pytest.approx(plain / size, rel=1e-6)


@pytest.mark.parametrize("name", ["ternary", "tight"])
def test_two_processes_decode_the_same_bits(nano_run, name):
    path = nano_run / "8-compression" / name
    answers = set()
    for threads in ("1", "2"):
        command = [sys.executable, "-c", PROGRAM, str(path)]
        done = subprocess.run(
            command, env=environment() | {"OMP_NUM_THREADS": threads}, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        answers.add(done.stdout)
    assert len(answers) == 1


def test_scores_are_those_of_the_decoded_model(nano_run, metrics):
    corpus, length = corpus_of(nano_run)
    model = load_language_model(nano_run / "8-compression" / "tight")
    bits = [bits_per_byte(model, domain.test, length) for domain in corpus.domains.values()]
    assert metrics["tight/bits_per_byte"] == pytest.approx(sum(bits) / len(bits), abs=1e-3)


def test_the_packed_model_talks(nano_run):
    model = load_language_model(nano_run / "8-compression")
    assert model.generate("def ", max_new_tokens=12, temperature=0.0, seed=0) == model.generate(
        "def ", max_new_tokens=12, temperature=0.0, seed=1
    )
    assert model(torch.zeros(2, 5, dtype=torch.int64)).shape == (2, 5, model.tokenizer.vocab_size)
    spoken = subprocess.run(
        [sys.executable, "-m", "esper.cli", "chat", str(nano_run), "--max-new-tokens", "8"],
        input="def main(\n",
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert spoken.returncode == 0, spoken.stderr
    assert json.dumps(spoken.stdout.strip()) != '""'
