"""What a population or an environment is given, judged before anything changes; errors say what was expected."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from esper.checks import QUOTED, did_you_mean, is_number, is_whole, spelled
from esper.engine.backends.base import KINDS
from esper.engine.optimizer import OptimizerConfig
from esper.errors import EngineError
from esper.kasmina.base import like
from esper.kasmina.host import MorphogeneticModel
from esper.leyline import CROSS_ENTROPY, LOSSES


def checked_members(models: Any, optimizer: Any) -> tuple[list[MorphogeneticModel], list[OptimizerConfig]]:
    """The members [M] and the optimizer of each [M]; both may come as any iterable, and one optimizer serves all."""
    if isinstance(models, nn.Module) or not isinstance(models, Iterable):
        raise EngineError(f"models: expected several, such as [model], and got {type(models).__name__}")
    members = list(models)
    if not members:
        raise EngineError("a population needs at least one model")
    for number, model in enumerate(members):
        if not isinstance(model, MorphogeneticModel):
            raise EngineError(
                f"member {number} is {type(model).__name__}: members come from esper.grow(network, slots, example), or "
                "are a MorphogeneticModel"
            )
    devices = [like(model.host).device for model in members]
    for number, device in enumerate(devices):
        if device != devices[0]:
            raise EngineError(
                f"member {number} is on {device}, and member 0 on {devices[0]}: expected all on one device"
            )
    return members, _optimizers(optimizer, len(members))


def _optimizers(optimizer: Any, count: int) -> list[OptimizerConfig]:
    if isinstance(optimizer, OptimizerConfig):
        return [optimizer] * count
    configs = list(optimizer) if isinstance(optimizer, Iterable) and not isinstance(optimizer, str) else [optimizer]
    for config in configs:
        if not isinstance(config, OptimizerConfig):
            raise EngineError(
                f"optimizer: expected an OptimizerConfig(...), or one for each member, and got {type(config).__name__}"
            )
    if len(configs) != count:
        raise EngineError(f"optimizer: {len(configs)} for {count} members; expected one for all, or one for each")
    return configs


def check_names(kind: str | None, loss: str) -> None:
    """Of an engine's kind, or None, and of a loss."""
    if kind not in (None, *KINDS):
        raise EngineError(f"engine kind {kind!r}: must be one of {', '.join(KINDS)}")
    if loss not in LOSSES:
        raise EngineError(f"loss {loss!r}: must be one of {', '.join(LOSSES)}")


def checked_epoch(
    x: Tensor,
    y: Tensor,
    order: Tensor,
    batch_size: int,
    source: Tensor | None,
    members: int,
    device: torch.device,
    loss: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """What an epoch is made of, as sets of examples: x, y and order [J, N, ...]."""
    x, y = checked_examples(x, y, source, members, device, loss)
    if not is_whole(batch_size) or batch_size < 1:
        raise EngineError(f"batch_size={spelled(batch_size)}: expected a whole number, 1 or more")
    _check_tensor("order", order, device, "as torch.randperm(len(x)) gives it")
    order = order.unsqueeze(0) if source is None else order
    if not order.numel():
        raise EngineError("order: 0 examples, and an epoch needs at least one")
    if order.dim() != 2 or len(order) != len(x):
        expected = "[N]" if source is None else f"[{len(x)}, N]"
        raise EngineError(
            f"order: expected {expected}, and got {list(order.shape if source is not None else order[0].shape)}"
        )
    is_integer = not (order.is_floating_point() or order.is_complex() or order.dtype is torch.bool)
    if not is_integer or int(order.min()) < 0 or int(order.max()) >= x.shape[1]:
        raise EngineError(f"order: expected whole numbers from 0 to {x.shape[1] - 1}")
    if not torch.is_grad_enabled():
        raise EngineError("gradients are switched off (torch.no_grad), and nothing could be trained")
    return x, y, order


def checked_examples(
    x: Tensor, y: Tensor, source: Tensor | None, members: int, device: torch.device, loss: str
) -> tuple[Tensor, Tensor]:
    """Inputs and targets as sets of examples [J, N, ...]; source [M]: which set each member sees, None where J is 1.

    Of a regression targets are [J, N, K].
    """
    # Inputs may stay in the host's memory: a population copies each minibatch.
    _check_tensor("x", x, x.device if isinstance(x, Tensor) and x.device.type == "cpu" else device, "[N, ...]")
    _check_tensor("y", y, device, "[N, ...]")
    if source is None:
        x, y = x.unsqueeze(0), y.unsqueeze(0)
    else:
        _check_tensor("source", source, device, "[M]")
        is_integer = source.dtype in (torch.int32, torch.int64)
        if source.shape != (members,) or not is_integer or int(source.min()) < 0 or int(source.max()) >= len(x):
            raise EngineError(f"source: expected {members} whole numbers, 0 to {len(x) - 1}, one for each member")
    if x.dim() < 2 or y.dim() < 2 or x.shape[:2] != y.shape[:2] or not y.numel():
        counts = [list(part.shape if source is not None else part.shape[1:]) for part in (x, y)]
        raise EngineError(f"x is {counts[0]} and y {counts[1]}: expected as many targets as examples, and at least one")
    if loss != CROSS_ENTROPY:
        return x, _numbers(y, loss)
    if y.dtype is not torch.int64 or int(y.min()) < 0:
        got = "a negative one" if y.dtype is torch.int64 else str(y.dtype)
        raise EngineError(f"targets: expected the numbers of classes, int64 from 0 on (no ignore_index), and got {got}")
    return x, y


def _numbers(y: Tensor, loss: str) -> Tensor:
    y = y.unsqueeze(2) if y.dim() == 2 else y
    if y.dim() == 3 and y.is_floating_point() and y.isfinite().all():
        return y
    got = f"{y.dtype} {list(y.shape[1:])}" + (", not all finite" if y.is_floating_point() else "")
    raise EngineError(f"targets under loss={loss}: expected finite floating point [N] or [N, K], and got {got}")


def check_rates(rate_factors: Sequence[float] | None, seeds: Sequence[int] | None, members: int) -> None:
    """Shares of learning rates and seeds: one for each member."""
    if rate_factors is not None and not (
        len(rate_factors) == members and all(is_number(factor) and factor >= 0 for factor in rate_factors)
    ):
        raise EngineError(f"rate_factors: expected {members} numbers, 0 or more, one for each member")
    if seeds is not None and not (len(seeds) == members and all(map(is_whole, seeds))):
        raise EngineError(f"seeds: expected {members} whole numbers, one for each member")


def check_seeds(without: Sequence[tuple[int, str]], models: Sequence[MorphogeneticModel]) -> None:
    """(member, slot) pairs whose seed's worth is asked for."""
    for member, slot in without:
        if not is_whole(member) or not 0 <= member < len(models):
            raise EngineError(f"without: there is no member {member}; there are 0 to {len(models) - 1}")
        known = models[member].slots
        if slot not in known:
            hint = did_you_mean(str(slot), known, QUOTED)
            raise EngineError(f"without: member {member} has no slot {slot!r}; it has {', '.join(known)}{hint}")


def action_numbers(actions: Any, count: int | None, known: int) -> list[int]:
    """The numbers of actions that a client gave, one for each of `count` members; None: the one of a single member.

    Args: known: actions there are. Raises EngineError on anything but integers within them: nothing is rounded.
    """
    shape, wanted = ((), "an integer") if count is None else ((count,), f"{count} integers")
    try:
        numbers = np.asarray(actions)
    except (TypeError, ValueError, RuntimeError) as error:  # rows of different lengths, a tensor on another device
        raise EngineError(f"actions: expected {wanted}, 0 to {known - 1}; they are no array ({error})") from error
    # In a list with integers numpy takes a truth value for one.
    has_truth = isinstance(actions, list | tuple) and any(isinstance(action, bool | np.bool_) for action in actions)
    if numbers.shape != shape or has_truth or not np.issubdtype(numbers.dtype, np.integer):
        found = "truth values" if has_truth else f"{numbers.dtype} {numbers.shape}"
        raise EngineError(f"actions: expected {wanted}, 0 to {known - 1}, found {found}")
    flat = numbers.reshape(-1)
    is_known = (flat >= 0) & (flat < known)
    if not is_known.all():
        member = int(np.flatnonzero(~is_known)[0])
        raise EngineError(f"action {flat[member]} of member {member}: expected 0 to {known - 1}")
    return [int(number) for number in flat]


def episode_seeds(options: dict[str, Any], count: int) -> list[int] | None:
    """The seeds of `count` episodes that the options of a reset name; None where they name none."""
    if options.keys() - {"episode_seeds"}:
        raise EngineError(f"reset options {', '.join(options)}: the only one is episode_seeds")
    if "episode_seeds" not in options:
        return None
    named = options["episode_seeds"]
    try:
        seeds = np.asarray(named)
    except (TypeError, ValueError) as error:
        raise EngineError(f"episode_seeds={named}: {error}") from error
    is_whole = np.issubdtype(seeds.dtype, np.integer)
    if not is_whole or seeds.shape != (count,) or not ((seeds >= 0) & (seeds < 2**63)).all():
        raise EngineError(f"episode_seeds={named}: expected {count} whole numbers, 0 or more")
    return [int(seed) for seed in seeds]


def _check_tensor(name: str, value: Any, device: torch.device, form: str) -> None:
    if not isinstance(value, Tensor):
        raise EngineError(f"{name}: expected a tensor {form}, and got {type(value).__name__}")
    if value.device != device:
        raise EngineError(
            f"{name} is on {value.device}, and the members are on {device}; move it: {name}.to('{device}')"
        )
