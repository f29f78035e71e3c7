"""Asking for help, or mistyping, must not cost the start of torch."""

import json
import subprocess
import sys
import time

import pytest

PROGRAM = """
import sys
from esper.run import main
code = main(sys.argv[1:])
heavy = {"torch", "wandb", "matplotlib", "numpy", "sklearn", "scipy"} & set(sys.modules)
sys.exit(99 if heavy else code)
"""


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["engine.membrs=3"], 2),
        (["-m", "seed=1,x"], 2),
        (["-m", "seed=1,2", "--dry-run"], 0),
        (["--dry-run", "-m", "seed=1,2", "epochs=3"], 0),
        (["--cfg", "job"], 0),
        (["policy=ppo", "policy.load=nowhere"], 2),
        (["task=images", "task.path=nowhere"], 2),
    ],
)
def test_no_heavy_library_is_loaded(arguments, code):
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, timeout=30)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


NEEDLESS = """
import sys
from esper.run import main
code = main(["debug=smoke", "telemetry.console=off", "hydra.run.dir=run"])
needless = {"sklearn", "pandas", "scipy", "matplotlib", "PIL", "pyarrow", "wandb", "tensorboard", "sympy", "ray"}
needless |= {"torch._dynamo", "torch._inductor", "torch.nn.attention.flex_attention"}
found = sorted(needless & set(sys.modules))
sys.exit(f"{found} loaded by the smallest run" if found else code)
"""


def test_the_smallest_run_loads_what_it_needs_and_plants_and_blends(tmp_path):
    done = subprocess.run([sys.executable, "-c", NEEDLESS], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    events = map(json.loads, (tmp_path / "run" / "events.jsonl").read_text().splitlines())
    assert [event["member"] for event in events if event["data"].get("to") == "BLENDING" and "from" in event["data"]]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("module", ["esper", "esper.config", "esper.config.composing", "esper.run"])
def test_these_imports_are_light(module):
    program = f"import {module}, sys; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=30).returncode == 0


@pytest.mark.slow
@pytest.mark.alone
def test_help_answers_within_a_second():
    def seconds():
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "esper.run", "--help"], capture_output=True, check=True, timeout=30)
        return time.perf_counter() - started

    assert any(seconds() < 1.0 for _ in range(5))  # whatever else the machine is doing
