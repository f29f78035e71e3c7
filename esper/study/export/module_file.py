"""A Python file that builds an exported network with torch alone, and reads its weights from beside it."""

import re
from textwrap import indent

from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx.graph import CodeGen

_FILE = '''"""A network that Esper grew, in torch's own operations: `network = load()`, then `network(x)`.

It takes x {shape} {dtype}. Needs torch and safetensors; the weights are in {weights}, beside this file.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, device, inf, nan, nn

WEIGHTS = Path(__file__).with_name({weights!r})


class Network(nn.Module):
    """The network; as it is made, its weights are empty."""

    def __init__(self) -> None:
        super().__init__()
{tensors}

{forward}


def load(weights: Path | str = WEIGHTS) -> Network:
    """The network with its weights, ready to predict."""
    network = Network()
    network.load_state_dict(load_file(weights))
    return network.eval()
'''


def module_file(program: ExportedProgram, example: Tensor, weights: str) -> tuple[str, dict[str, Tensor]]:
    """The file's text, and the tensors that it needs, by name.

    Args: example: an input [B, ...] that the program was made with; weights: the name of the tensors' file.
    """
    module = program.module(check_guards=False)
    graph = module.graph
    graph.set_codegen(CodeGen())  # inputs and outputs as they are, not by torch's trees of them
    (output,) = (node for node in graph.nodes if node.op == "output")
    (output.args,) = output.args  # of one tensor
    tensors: dict[str, Tensor] = {}
    made: dict[str, str] = {}
    for node in list(graph.nodes):
        if node.op != "get_attr":
            continue
        if not node.users:  # such as a batch norm's count of minibatches
            graph.erase_node(node)
            continue
        tensor = _attribute(module, node.target)
        node.target = name = re.sub(r"\W", "_", node.target)
        tensors[name] = tensor.detach().clone().contiguous()
        empty = f"torch.empty({tuple(tensor.shape)}, dtype={tensor.dtype})"
        if isinstance(tensor, nn.Parameter):
            made[name] = f"self.{name} = nn.Parameter({empty})"
        else:
            made[name] = f'self.register_buffer("{name}", {empty})'
    forward = re.sub(r";  .* = None$", "", graph.python_code("self").src.strip(), flags=re.MULTILINE)
    text = _FILE.format(
        shape=["B", *example.shape[1:]],
        dtype=example.dtype,
        weights=weights,
        tensors=indent("\n".join(made.values()), 8 * " "),
        forward=indent(forward, 4 * " "),
    )
    return text, tensors


def _attribute(module: nn.Module, target: str) -> Tensor:
    owner, _, name = target.rpartition(".")
    return getattr(module.get_submodule(owner), name)
