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
from esper.leyline.topologies import TOPOLOGIES, channel_dim, shape_spelled

_SEQUENCE_LAYERS = (nn.Linear, nn.Bilinear, nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.MultiheadAttention, nn.RNNBase)
_CHANNELS_FIRST, _CHANNELS_LAST = 1, -1
_EXPECTED = (
    "a seed takes "
    + ", ".join(f"{shape_spelled(topology)} ({topology})" for topology in list(TOPOLOGIES)[:-1])
    + f" or {shape_spelled(list(TOPOLOGIES)[-1])} ({list(TOPOLOGIES)[-1]})"
)


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
    with undisturbed_streams(example.device), torch.no_grad():
        outputs = _run(_materialised(module, example), asked, example)
    for path, said in asked.items():
        if path not in outputs:
            raise ConfigError(f"{said}: the network's forward pass never calls it")
    found = {}
    for path, (output, makers) in outputs.items():
        _check(asked[path], output, len(example), topology)
        found[path] = Features(output.shape, topology or _topology(asked[path], output, makers, bool(key)))
    return found


def children_with_features(module: nn.Module, example: Tensor, key: str) -> list[str]:
    """The network's children behind which seeds can be planted, those of its first child with features alike.

    Of a list of layers, which is never called itself, each layer counts; what makes the network's own output does not,
    nor what comes before its first parameters. Raises: ConfigError where there are none.
    """
    try:
        with undisturbed_streams(example.device), torch.no_grad():
            end = getattr(run_example(_materialised(module, example), example), "shape", None)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from error
    paths = [
        f"{name}.{place}" if isinstance(child, nn.ModuleList) else name
        for name, child in module.named_children()
        for place in (range(len(child)) if isinstance(child, nn.ModuleList) else (0,))
    ]
    learns = [any(True for _ in module.get_submodule(path).parameters()) for path in paths]
    found: dict[str, Features] = {}
    reasons = []
    for path in paths[learns.index(True) if True in learns else len(paths) :]:
        try:
            found |= probe(module, {path: path}, example, key)
        except ConfigError as error:
            reasons.append(first_line(error))
    found = {path: features for path, features in found.items() if path != paths[-1] or features.shape != end}
    if not found:
        raise ConfigError(f"{key}: none of its layers takes a seed\n  {reasons[-1] if reasons else 'it has no layers'}")
    topology = next(iter(found.values())).topology
    return [path for path, features in found.items() if features.topology == topology]


def _materialised(module: nn.Module, example: Tensor) -> nn.Module:
    """A copy to try; the network itself gets the shapes and tensors that it only takes on at its first pass."""
    attempt = copy_network(module)
    names = _tensor_names(attempt)
    run_example(attempt, example)
    if names == _tensor_names(attempt):
        return attempt
    other = copy_network(module)
    run_example(other, 2 * example + 1 if example.is_floating_point() else example)
    lazy = {name for name, is_lazy in names if is_lazy}
    for (name, one), (_, two) in zip(_tensors(attempt), _tensors(other), strict=True):
        if (name, False) not in names and name not in lazy and not torch.equal(one, two):
            raise ConfigError(f"{name}: is made from the first minibatch; run the network once on yours, then grow it")
    run_example(module, example)
    return copy_network(module)


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def _tensor_names(module: nn.Module) -> list[tuple[str, bool]]:
    return [(name, nn.parameter.is_lazy(tensor)) for name, tensor in _tensors(module)]


def run_example(module: nn.Module, example: Tensor) -> Any:
    """What a pass in evaluation mode gives. Raises: ConfigError where it fails."""
    try:
        with evaluating(module):
            return module(example.clone())  # which some work in place on
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
    kinds = TOPOLOGIES.values() if topology is None else (TOPOLOGIES[topology],)
    if output.dim() not in map(len, kinds) or not output.is_floating_point():
        raise ConfigError(f"{said}: its output is {list(output.shape)} {output.dtype}; {_EXPECTED}")
    if output.shape[0] != batch:
        raise ConfigError(
            f"{said}: its output is {list(output.shape)}, whose first dimension is not the batch, {batch}"
        )


def _topology(said: str, output: Tensor, makers: list[tuple[nn.Module, Tensor]], is_run: bool) -> str:
    """Told by the last layer that knows what its dimensions mean; by their number alone [B, C, L] looks like [B, T, C].

    Raises: ConfigError where that layer makes no such features, or none tells and there is more than one way.
    """
    possible = {channel_dim(name): name for name, letters in TOPOLOGIES.items() if len(letters) == output.dim()}
    if len(possible) == 1 and output.dim() == 2:
        return possible[1]
    for layer, made in reversed(makers):
        dim = _channels_at(layer)
        if dim is None:
            continue
        is_kept = dim == _CHANNELS_LAST or (made.dim() == output.dim() and made.shape[dim] == output.shape[dim])
        if is_kept and dim % output.dim() in possible:
            return possible[dim % output.dim()]
        what = f"made by {type(layer).__name__}"
        break
    else:
        what = "made by no layer that tells what its dimensions mean"
    key = "host.features" if is_run else "topology"
    raise ConfigError(
        f"{said}: its output {list(output.shape)} is {what}; {_EXPECTED}\n"
        f"  if its dimensions are these, say so: {' or '.join(f'{key}={topology}' for topology in possible.values())}"
    )


def _channels_at(layer: nn.Module) -> int | None:
    """Which dimension of what a layer makes holds the channels; None where it does not tell."""
    if isinstance(layer, nn.LayerNorm | nn.RMSNorm) and len(layer.normalized_shape) > 1:
        return None
    if isinstance(layer, _SEQUENCE_LAYERS):
        return _CHANNELS_LAST
    names = [kind.__name__ for kind in type(layer).__mro__ if kind.__module__.startswith("torch.nn.")]
    is_first = isinstance(layer, nn.GroupNorm) or any(name[-2:] in ("1d", "2d", "3d") for name in names)
    return _CHANNELS_FIRST if is_first else None
