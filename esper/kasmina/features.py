"""What a network's submodules give out, and which seeds it takes: found by a trial pass over a copy."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from esper.errors import ConfigError, first_line
from esper.kasmina.copying import copy_network
from esper.kasmina.probe import evaluating
from esper.kasmina.seeding import undisturbed_streams

_SEQUENCE_LAYERS = (nn.Linear, nn.Bilinear, nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.MultiheadAttention, nn.RNNBase)
CHANNEL_DIMS = {"cnn": 1, "transformer": -1}  # where the channels of each topology's features are
_DIMS = {"cnn": 4, "transformer": 3}
_EXPECTED = "a seed takes images [B, C, H, W] or sequences [B, T, C]"


@dataclass(frozen=True, slots=True)
class Features:
    """Of one submodule: their shape [B, ...], and the topology of the seeds they take."""

    shape: torch.Size
    topology: str


def probe(
    module: nn.Module, positions: Mapping[str, str], example: Tensor, key: str = "", topology: str | None = None
) -> dict[str, Features]:
    """Features at each path of `positions` (name -> path), in the order in which the data meets them.

    A copy of the network is run, in evaluation mode. topology: as the user says it; None: told by the layer that makes
    the features. key: what the paths were given as. Raises: ConfigError with the reason where no seed can be.
    """
    asked = {path: f"{key or f'slots.{name}'}={path}" for name, path in positions.items()}
    for path, said in asked.items():
        try:
            module.get_submodule(path)
        except AttributeError as error:
            known = ", ".join(path for path, _ in module.named_modules() if path)
            raise ConfigError(f"{said}: the network has no such submodule; it has {known}") from error
        if not path or list(positions.values()).count(path) > 1:
            raise ConfigError(f"{said}: every slot needs a submodule of its own")
    with undisturbed_streams(example.device):
        outputs = _run(_materialised(module, example), asked, example)
    for path, said in asked.items():
        if path not in outputs:
            raise ConfigError(f"{said}: the network's forward pass never calls it")
    found = {}
    for path, (output, makers) in outputs.items():
        _check(asked[path], output, len(example), topology)
        found[path] = Features(output.shape, topology or _topology(asked[path], output, makers, bool(key)))
    return found


def _materialised(module: nn.Module, example: Tensor) -> nn.Module:
    """A copy to try; the network itself gets the shapes and tensors that it only takes on at its first pass."""
    attempt = copy_network(module)
    names = _tensor_names(attempt)
    run_example(attempt, example)
    if names == _tensor_names(attempt):
        return attempt
    run_example(module, example)
    return copy_network(module)


def _tensor_names(module: nn.Module) -> list[tuple[str, bool]]:
    tensors = (*module.named_parameters(), *module.named_buffers())
    return [(name, nn.parameter.is_lazy(tensor)) for name, tensor in tensors]


def run_example(module: nn.Module, example: Tensor) -> None:
    """A pass in evaluation mode. Raises: ConfigError where it fails."""
    try:
        with torch.no_grad(), evaluating(module):
            module(example)
    except ConfigError:
        raise
    except Exception as error:  # whatever a network of any make may raise
        raise ConfigError(f"the network fails on the example {list(example.shape)}: {first_line(error)}") from error


def _run(
    module: nn.Module, asked: Mapping[str, str], example: Tensor
) -> dict[str, tuple[Tensor, list[tuple[nn.Module, Tensor]]]]:
    """Path -> output, and the layers that ran inside with what each gave, in their order."""
    inside: dict[str, list[tuple[nn.Module, Tensor]]] = {path: [] for path in asked}
    found: dict[str, Tensor] = {}
    for path, part in module.named_modules():
        if path in asked:
            part.register_forward_hook(functools.partial(_note, found, path, asked[path]))
        outer = [inside[above] for above in asked if f"{path}.".startswith(f"{above}.")]
        part.register_forward_hook(functools.partial(_record, outer))
    run_example(module, example)
    return {path: (output, inside[path]) for path, output in found.items()}


def _record(
    lists: list[list[tuple[nn.Module, Tensor]]], layer: nn.Module, arguments: tuple[Any, ...], output: Any
) -> None:
    for made in lists:
        made.append((layer, _first(output)))


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) and output else output


def _note(
    found: dict[str, Tensor], path: str, said: str, layer: nn.Module, arguments: tuple[Any, ...], output: Any
) -> None:
    output = _first(output)
    if path in found:
        raise ConfigError(f"{said}: it runs more than once a pass, and a slot stands in one place")
    if not isinstance(output, Tensor):
        raise ConfigError(f"{said}: its output is {type(output).__name__}, and a seed takes a tensor")
    found[path] = output


def _check(said: str, output: Tensor, batch: int, topology: str | None) -> None:
    dims = _DIMS.values() if topology is None else (_DIMS[topology],)
    if output.dim() not in dims or not output.is_floating_point():
        raise ConfigError(f"{said}: its output is {list(output.shape)} {output.dtype}; {_EXPECTED}")
    if output.shape[0] != batch:
        raise ConfigError(
            f"{said}: its output is {list(output.shape)}, whose first dimension is not the batch, {batch}"
        )


def _topology(said: str, output: Tensor, makers: list[tuple[nn.Module, Tensor]], is_run: bool) -> str:
    """Told by the last layer that knows what its dimensions mean; by their number alone [B, C, L] looks like [B, T, C].

    Raises: ConfigError where that layer makes neither images nor sequences, or none does.
    """
    for layer, made in reversed(makers):
        kind = _kind(layer, made)
        if kind is None:
            continue
        if _DIMS.get(kind) == output.dim():
            return kind
        what = f"made by {type(layer).__name__}"
        break
    else:
        what = "made by no layer that tells what its dimensions mean"
    meant = next(topology for topology, dims in _DIMS.items() if dims == output.dim())
    raise ConfigError(
        f"{said}: its output {list(output.shape)} is {what}; {_EXPECTED}\n"
        f"  if its dimensions are these, say so: {'host.features' if is_run else 'topology'}={meant}"
    )


def _kind(layer: nn.Module, made: Any) -> str | None:
    """What a layer makes: "cnn" (images), "transformer" (vectors in the last dimension), or another word."""
    if isinstance(layer, nn.LayerNorm | nn.RMSNorm) and len(layer.normalized_shape) > 1:
        return None
    if isinstance(layer, _SEQUENCE_LAYERS):
        return "transformer"
    if isinstance(layer, nn.GroupNorm):
        return "cnn" if isinstance(made, Tensor) and made.dim() == 4 else "channels first"
    names = [kind.__name__ for kind in type(layer).__mro__ if kind.__module__.startswith("torch.nn.")]
    ending = next((name[-2:] for name in names if name[-2:] in ("1d", "2d", "3d")), None)
    return None if ending is None else {"2d": "cnn"}.get(ending, "channels first")
