"""The recipes of CONTRIBUTING, followed to the letter in a copy of the package."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
RECIPES = dict(re.findall(r"^### (.+)\n((?:(?!^##).*\n)+)", PAGE[PAGE.index("## Recipes") :], flags=re.M))
PARTS = ["A blueprint", "A policy", "A reward", "A task", "A host", "A sink"]
PROGRAM = """
import shlex, sys
from esper.run import main
for command in sys.argv[1:]:
    assert main(shlex.split(command)) == 0, command
"""


def patched(text: str, diff: str) -> str:
    """The text with a block's changes: what a + adds goes below the line above it, or above the block's first line."""
    lines, place, added = text.splitlines(), -1, []
    for change in diff.splitlines():
        sign, line = change[:1], change[1:]
        if sign == "+":
            added.append(line)
            continue
        found = lines.index(line, max(place, 0))
        at = found if place < 0 else place
        lines[at:at] = added
        place, added = found + len(added) + (sign != "-"), []
        if sign == "-":
            del lines[place]
    lines[place:place] = added
    return "\n".join(lines) + "\n"


def follow(recipe: str, folder: Path) -> list[str]:
    """Write what a recipe shows; the arguments of the runs that it ends with."""
    for language, name, block in re.findall(r'^```(\w+) title="([^"\n]+)"\n(.*?)^```', recipe, flags=re.M | re.S):
        path = folder / name
        path.write_text(patched(path.read_text(), block) if language == "diff" else block)
    return re.findall(r"^python -m esper\.run (.+)$", recipe, flags=re.M)


def run(folder: Path, *command: str) -> None:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def test_every_part_has_a_recipe():
    assert list(RECIPES) == PARTS


@pytest.fixture
def package(tmp_path):
    for name in ("esper", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_all_recipes_together_run_as_they_stand(package):
    commands = [command for part in PARTS for command in follow(RECIPES[part], package)]
    assert len(commands) == len(PARTS)
    quick = "engine.kind=sequential engine.threads=1 engine.members=1 controls=[] telemetry.report=false"
    run(package, "-c", PROGRAM, *(f"{command} {quick}" for command in commands))
    assert len((package / "with_csv/accuracies.csv").read_text().splitlines()) == 3
    planted = "".join(path.read_text() for path in package.glob("outputs/*/*/events.jsonl"))
    assert '"squeeze"' in planted and "is free" in planted


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_each_recipe_is_whole_by_itself(package, part):
    (command,) = follow(RECIPES[part], package)
    changed = [name for name in re.findall(r'title="(.+)"', RECIPES[part]) if name.endswith(".py")]
    ruff = [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), *changed]
    assert subprocess.run(ruff, cwd=package, capture_output=True).returncode == 0
    compose = "import shlex, sys; from esper.config.composing import compose; compose(shlex.split(sys.argv[1]))"
    overrides = shlex.join(word for word in shlex.split(command) if not word.startswith("hydra."))
    run(package, "-c", compose, overrides)
