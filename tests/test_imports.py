"""Every module can be the first that is imported."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import importlib, pkgutil, sys
import esper

names = [module.name for module in pkgutil.walk_packages(esper.__path__, "esper.")]
assert len(names) > 200, names
failed = False
for name in names:
    for loaded in [loaded for loaded in sys.modules if loaded == "esper" or loaded.startswith("esper.")]:
        del sys.modules[loaded]
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
