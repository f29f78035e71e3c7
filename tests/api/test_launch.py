"""`esper.launch`: what it gives, what it refuses, and what it leaves behind."""

import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import esper
from esper.api.handle import RunHandle
from esper.api.overrides import as_overrides
from esper.config.composing import compose
from esper.errors import ConfigError, DivergedError, EsperError, RunExistsError
from esper.run import main
from tests.api.conftest import TINY


@pytest.mark.slow
def test_it_is_the_same_as_the_command_line(run: RunHandle, tmp_path: Path) -> None:
    assert main([*TINY, "epochs=3", f"hydra.run.dir={tmp_path}/same"]) == 0
    lines = [(folder / "metrics.jsonl").read_text().splitlines() for folder in (run.folder, tmp_path / "same")]
    ours, theirs = ([json.loads(line)["members"] for line in of_run] for of_run in lines)
    assert ours == theirs
    assert (run.folder / "config.yaml").read_text() == (tmp_path / "same" / "config.yaml").read_text()
    records = [json.loads((folder / "run.json").read_text()) for folder in (run.folder, tmp_path / "same")]
    assert records[0]["options"] == records[1]["options"]
    assert records[0]["overrides"] == [*TINY, "epochs=3"]


def surroundings() -> tuple[object, ...]:
    random_numbers = (torch.get_rng_state().sum().item(), np.random.get_state()[2], hash(random.getstate()))
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    root = logging.getLogger()
    return (
        *random_numbers,
        torch.get_num_threads(),
        *handlers,
        root.level,
        [*root.handlers],
        list(sys.argv),
        Path.cwd(),
    )


@pytest.mark.usefixtures("run")  # a library that draws as it is imported has been
def test_it_leaves_everything_as_it_was_even_from_a_thread(tmp_path: Path) -> None:
    torch.set_num_threads(2)  # and the run trains with one
    before, found = surroundings(), []
    thread = threading.Thread(target=lambda: found.append(esper.launch(*TINY, f"hydra.run.dir={tmp_path}/a", epochs=1)))
    thread.start()
    thread.join()
    assert found[0].status == "finished"
    assert surroundings() == before


@pytest.mark.slow
def test_two_at_once_are_what_each_is_alone(tmp_path: Path) -> None:
    alone = esper.launch(*TINY, f"hydra.run.dir={tmp_path}/alone", epochs=2)
    before, found = surroundings(), []

    def start(number: int) -> None:
        found.append(esper.launch(*TINY, f"hydra.run.dir={tmp_path}/{number}", epochs=2))

    threads = [threading.Thread(target=start, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert surroundings() == before
    assert [run.summary["grown"] for run in found] == [alone.summary["grown"]] * 2


@pytest.mark.slow
def test_each_has_a_folder_of_its_own_below_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    quick = {"epochs": 1, "policy": "static", "controls": [], "engine": {"members": 1}}
    first, second = (esper.launch(*TINY[:4], **{"telemetry.console": "off"}, **quick) for _ in range(2))
    assert first != second
    assert first.folder.parent == tmp_path / "outputs" / "digits_static"
    monkeypatch.chdir("/")
    assert first.status == "finished"
    assert {first, second} == set(esper.runs(root=tmp_path / "outputs"))


REFUSED = [
    (["polcy=ppo"], {}, "polcy=ppo: there is no such key; did you mean policy?"),
    (["policy=heuristik"], {}, "did you mean policy=heuristic?"),
    ([], {"policy": "heuristik"}, "did you mean policy=heuristic?"),
    ([], {"epochs": 0}, "epochs=0: expected 1 to 1000000"),
    ([], {"policy": {"patience": 3}}, "policy.patience=3: there is no such key"),
    (["policy=random,static"], {}, "several values need -m"),
    (["-m", "seed=1"], {}, "-m: expected overrides"),
    (["resume=x"], {}, "resume=x: belongs on the command line"),
    (["hydra.run.dir="], {}, "no folder is named"),
    ([], {"seed": object()}, "seed: expected text, a number, a list or a dict of them, and got object"),
    ([], {"blueprint": {"names": ["cnv"]}}, "cnv"),
    ([3], {}, "launch: 3: expected overrides"),
]


@pytest.mark.sampled(5)
@pytest.mark.parametrize(("overrides", "keywords", "message"), REFUSED)
def test_what_cannot_be_is_refused_and_leaves_nothing(overrides, keywords, message, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EsperError) as raised:
        esper.launch(*overrides, **keywords)
    assert message in str(raised.value)
    assert len(str(raised.value).splitlines()) <= 2
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_a_run_is_not_written_over(run: RunHandle) -> None:
    before = (run.folder / "run.json").read_bytes()
    with pytest.raises(RunExistsError, match="already holds a run"):
        esper.launch(*TINY, f"hydra.run.dir={run.folder}")
    assert (run.folder / "run.json").read_bytes() == before


def test_what_is_refused_once_torch_is_there_leaves_nothing_either(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="batch_size=900000: more than"):
        esper.launch(*TINY, f"hydra.run.dir={tmp_path}/a/b", batch_size=900_000)
    assert not (tmp_path / "a" / "b").exists()


@pytest.mark.slow
def test_a_run_that_fails_is_raised_and_its_folder_says_why(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="diverged"):
        esper.launch(*TINY, f"hydra.run.dir={tmp_path}/a", optimizer={"learning_rate": 1000})
    failed = esper.open_run(tmp_path / "a")
    assert failed.status == "failed"
    assert failed.config.optimizer.learning_rate == 1000


@pytest.mark.slow
def test_ctrl_c_is_passed_on_once_the_run_is_saved(tmp_path: Path) -> None:
    program = f"""
import esper
try:
    esper.launch(*{TINY!r}, "hydra.run.dir=a", "telemetry.console=plain", "checkpoint.every_epochs=1", epochs=100000)
except KeyboardInterrupt:
    print("interrupted", esper.open_run("a").status)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(esper.__file__).parents[1])},
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("a/checkpoints/*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out.splitlines()[-1] == "interrupted interrupted"


WORDS = [
    ({"epochs": 3}, "epochs=3"),
    ({"engine": {"governor": {"max_rollbacks": 1}}}, "engine.governor.max_rollbacks=1"),
    ({"controls": []}, "controls=[]"),
    ({"policy": {"load": None}}, "policy.load=null"),
    ({"optimizer": {"learning_rate": 1e-7}}, "optimizer.learning_rate=1e-07"),
    ({"slots": {"names": ["early", "late"]}}, "slots.names=[early,late]"),
    ({"seed": np.int64(4)}, "seed=4"),
    ({"name": "true"}, 'name="true"'),
]


@pytest.mark.parametrize(("keywords", "word"), WORDS)
def test_keywords_are_overrides(keywords: dict, word: str) -> None:
    assert list(as_overrides(keywords)) == [word]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("text", ["a b", "it's", 'say "x"', "a,b", "[1]", "50%", "back\\slash", "end\\", "1e3"])
def test_text_reaches_the_configuration_as_it_is(text: str) -> None:
    (word,) = as_overrides({"telemetry": {"wandb": {"entity": text}}})
    try:
        assert compose([word]).telemetry.wandb.entity == text
    except ConfigError as error:  # which entities are allowed is another matter
        assert "telemetry.wandb.entity" in str(error) and "1 to 128 characters" in str(error)
