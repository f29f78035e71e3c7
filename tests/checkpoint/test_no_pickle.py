"""Nothing in esper unpickles: reading a checkpoint can never run code."""

import ast
from pathlib import Path

import pytest

import esper

ROOT = Path(esper.__file__).parent
ALLOWED = {Path("checkpoint/audit.py"), Path("checkpoint/convert.py")}
PICKLERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
TORCH_CALLS = {"torch.load", "torch.save", "torch.serialization.load", "torch.serialization.save"}


def forbidden(source: str) -> list[str]:
    """The modules and functions of pickle and torch's pickling that a source file names."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found += [alias.name for alias in names if PICKLERS & set(alias.name.split("."))]
            case ast.ImportFrom(module=str(module), names=names):
                found += [module for alias in names if PICKLERS & {*module.split("."), alias.name}]
                found += [name for alias in names if (name := f"{module}.{alias.name}") in TORCH_CALLS]
            case ast.Attribute():
                found += [name] if (name := ast.unparse(node)) in TORCH_CALLS or node.attr in PICKLERS else []
            case ast.keyword(arg="allow_pickle"):
                found.append("allow_pickle")
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import joblib.memory",
        "from pickle import loads",
        "from torch import save",
        "from ray import cloudpickle",
        "import ray\nray.cloudpickle.loads(b'')",
        "from torch.serialization import load as read",
        "import torch\nx = torch.load('f', weights_only=True)",
        "import torch\nwrite = torch.save",
        "import numpy as np\nnp.load('f', allow_pickle=True)",
    ],
)
def test_the_check_finds_it(source: str) -> None:
    assert forbidden(source)
    assert not forbidden("import torch\nfrom torch import nn\nmodel.load_state_dict(torch.loads)\n")


def test_no_module_pickles() -> None:
    modules = {path.relative_to(ROOT): path.read_text() for path in ROOT.rglob("*.py")}
    assert len(modules) > 10
    found = {str(path): forbidden(text) for path, text in modules.items() if path not in ALLOWED}
    assert {path: names for path, names in found.items() if names} == {}
