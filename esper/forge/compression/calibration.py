"""Sensitivity of every weight matrix to errors, measured once on a few windows of validation text."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.forge.compression.codec import Statistics


def calibrate(network: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, Statistics]:
    """Kronecker factors of the Fisher matrix of every parameter with two dimensions, by name.

    Of an `nn.Linear`, from what it multiplies and the gradients of its outputs; of any other, such as an embedding that
    is also the head, from its gradients window by window (as in Shampoo: Gupta et al. 2018). One window at a time: all
    of a batch would blur in a gradient.

    Args:
        network: [B, T] int64 -> logits [B, T, V].
        inputs, targets: windows of tokens and of those that follow, [N, T] int64.
    """
    matrices = {name: p for name, p in network.named_parameters() if p.ndim == 2 and p.requires_grad}
    linears = {
        f"{name}.weight": module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and f"{name}.weight" in matrices
    }
    sums = {name: (torch.zeros(p.shape[1], p.shape[1]), torch.zeros(p.shape[0])) for name, p in matrices.items()}
    hooks = [module.register_forward_hook(_watcher(*sums[name])) for name, module in linears.items()]
    others = {name: p for name, p in matrices.items() if name not in linears}
    was_training = network.training
    network.eval()
    try:
        for window, following in zip(inputs.split(1), targets.split(1), strict=True):
            loss = F.cross_entropy(network(window).flatten(0, 1), following.flatten(), reduction="sum")
            network.zero_grad(set_to_none=True)
            loss.backward()
            for name, parameter in others.items():
                if (gradient := parameter.grad) is not None:
                    sums[name][0].add_(gradient.T @ gradient)
                    sums[name][1].add_(gradient.square().sum(1))
    finally:
        for hook in hooks:
            hook.remove()
        network.zero_grad(set_to_none=True)
        network.train(was_training)
    tokens = targets.numel()
    return {
        name: Statistics(moments / (tokens if name in linears else moments.trace().clamp(min=1e-30)), rows / tokens)
        for name, (moments, rows) in sums.items()
    }


def _watcher(moments: Tensor, rows: Tensor) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
    def add(gradient: Tensor) -> None:
        rows.add_(gradient.flatten(0, -2).square().sum(0))

    def watch(module: nn.Module, arguments: tuple[Tensor], output: Tensor) -> None:
        features = arguments[0].detach().flatten(0, -2)
        moments.add_(features.T @ features)
        output.register_hook(add)

    return watch
