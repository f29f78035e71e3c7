"""Every module can be the first that is imported, and none reaches above itself by a string."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]

PROGRAM = """
import importlib.util, pkgutil, sys
import esper

names = [module.name for module in pkgutil.walk_packages(esper.__path__, "esper.")]
assert len(names) > 200, names
failed = False
for name in names:
    for loaded in [loaded for loaded in sys.modules if loaded == "esper" or loaded.startswith("esper.")]:
        del sys.modules[loaded]
    package = name.removeprefix("esper.integrations.")
    if package != name and importlib.util.find_spec(package) is None:
        continue  # of an extra
    try:
        if not name.endswith("__main__"):
            importlib.import_module(name)
    except Exception as error:
        failed = True
        print(f"{name}: {type(error).__name__}: {error}")
sys.exit(failed)
"""


def test_every_module_imports_whatever_was_imported_before_it():
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr


def named_modules(path):
    """Rooms of esper that a file names in strings, but for documentation and commands (python -m ...)."""
    tree = ast.parse(path.read_text())
    texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts:
            for name in re.findall(r"(?<!-m )\besper(?:\.[a-z_0-9]+)+", node.value):
                parts = name.split(".")
                if (ROOT / "esper" / parts[1]).is_dir() or (ROOT / "esper" / f"{parts[1]}.py").is_file():
                    yield parts[1]


def test_no_string_names_a_module_of_a_higher_room():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [layer.split(" | ") for layer in contracts[0]["layers"]]
    height = {room: len(layers) - index for index, layer in enumerate(layers) for room in layer}
    found = []
    for path in sorted((ROOT / "esper").rglob("*.py")):
        room = path.relative_to(ROOT / "esper").parts[0].removesuffix(".py")
        if room == "__init__":
            continue  # public names, which are looked up when they are asked for
        found += [f"{path.relative_to(ROOT)}: {name}" for name in named_modules(path) if height[name] > height[room]]
    assert not found, found
