"""Networks trained as anybody would train them: the reference that engines are compared with."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from esper.engine.backends.sequential import EVALUATION_STREAM, stream_of
from esper.engine.fusion.blueprint_groups import is_isolated
from esper.engine.fusion.losses import plain_loss
from esper.engine.optimizer import OptimizerConfig, real
from esper.errors import EngineError, EsperError, first_line
from esper.kasmina.base import Host
from esper.kasmina.copying import copy_network
from esper.kasmina.host import MorphogeneticModel
from esper.kasmina.probe import evaluating
from esper.kasmina.seeding import seed_streams, undisturbed_streams
from esper.leyline import CROSS_ENTROPY


class PlainTraining:
    """Some networks, one after another, each with its own optimizer."""

    def __init__(
        self, models: Sequence[MorphogeneticModel], configs: Sequence[OptimizerConfig], loss: str = CROSS_ENTROPY
    ) -> None:
        self.models, self.configs, self.loss = models, configs, loss
        self.optimizers = [_Optimizer(model, config) for model, config in zip(models, configs, strict=True)]

    def backward(self, x: Tensor, y: Tensor) -> list[Tensor]:
        """One minibatch: each network's loss; gradients stand in its parameters."""
        losses = []
        for model, optimizer in zip(self.models, self.optimizers, strict=True):
            model.train()
            optimizer.zero_grad()
            seed_streams(stream_of(0, 0), x.device)
            loss = _loss(model(x.clone()), y, self.loss)
            if loss.requires_grad:
                loss.backward()
            elif any(parameter.requires_grad for parameter in model.parameters()):
                raise EngineError("no gradient reaches any weight: the network's output is detached from them")
            for slot in model.slots.values():
                slot.step()
            losses.append(loss.detach())
        return losses

    def step(self) -> None:
        for model, optimizer, config in zip(self.models, self.optimizers, self.configs, strict=True):
            if config.clip_norm is not None:
                apart = [list(slot.parameters()) for slot in model.slots.values() if is_isolated(slot)]
                held = {id(parameter) for parameters in apart for parameter in parameters}
                for group in ([p for p in model.parameters() if id(p) not in held], *apart):
                    nn.utils.clip_grad_norm_(group, config.clip_norm)
            optimizer.step()

    @torch.no_grad()
    def evaluate(self, x: Tensor, y: Tensor) -> list[Tensor]:
        losses = []
        for model in self.models:
            model.eval()
            seed_streams(EVALUATION_STREAM, x.device)
            losses.append(_loss(model(x.clone()), y, self.loss))
        return losses


class _Optimizer:
    """SGD or AdamW by torch's functions; the classes load torch's compiler, which takes longer than all else here."""

    def __init__(self, model: nn.Module, config: OptimizerConfig) -> None:
        self.config, self.parameters = config, list(model.parameters())
        self.momentum: dict[int, Tensor | None] = {}
        self.moments: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        for index, parameter in enumerate(self.parameters):
            if parameter.grad is None:
                continue
            weight, grad = real(parameter), real(parameter.grad).to_dense()
            step = self._sgd if self.config.name == "sgd" else self._adamw
            step(index, weight, grad)

    def _sgd(self, index: int, weight: Tensor, grad: Tensor) -> None:
        held = [self.momentum.get(index)]
        sgd(
            [weight],
            [grad],
            held,
            has_sparse_grad=False,
            foreach=False,
            weight_decay=self.config.weight_decay,
            momentum=self.config.momentum,
            lr=self.config.learning_rate,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        self.momentum[index] = held[0]

    def _adamw(self, index: int, weight: Tensor, grad: Tensor) -> None:
        fresh = torch.zeros_like(weight), torch.zeros_like(weight), torch.zeros(())
        first, second, steps = self.moments.setdefault(index, fresh)
        adamw(
            [weight],
            [grad],
            [first],
            [second],
            [],
            [steps],
            foreach=False,
            amsgrad=False,
            beta1=self.config.betas[0],
            beta2=self.config.betas[1],
            lr=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
            eps=self.config.eps,
            maximize=False,
        )


def _loss(output: object, y: Tensor, loss: str) -> Tensor:
    outputs = checked_outputs(output, y, loss)
    if loss == CROSS_ENTROPY:
        check_classes(outputs.shape[-1], int(y.max()) + 1)
        outputs, y = outputs.flatten(0, -2), y.flatten()
    return plain_loss(outputs, y, loss)


def checked_outputs(output: object, y: Tensor, loss: str) -> Tensor:
    """What a network gave, if it fits; else raises EngineError.

    Logits [..., classes] fit labels y [...]; of a regression, outputs [B, K] fit targets y [B, K].
    """
    wanted = f"outputs {list(y.shape)}"
    if loss == CROSS_ENTROPY:
        wanted = f"logits [{', '.join([*map(str, y.shape), 'classes'])}]"
    if not isinstance(output, Tensor):
        raise EngineError(
            f"the network gives a {type(output).__name__} for targets {list(y.shape)}; expected one tensor of "
            f"{wanted}: wrap the network in one that returns it"
        )
    if not output.dim() or (output.shape[:-1] if loss == CROSS_ENTROPY else output.shape) != y.shape:
        raise EngineError(f"the network gives {list(output.shape)} for targets {list(y.shape)}; expected {wanted}")
    if not output.is_floating_point():
        raise EngineError(f"the network gives {output.dtype}; expected {wanted} in floating point")
    return output


def check_classes(outputs: int, classes: int) -> None:
    """Raises EngineError where a network tells fewer classes apart than there are."""
    if outputs < classes:
        raise EngineError(f"the network gives {outputs} outputs, and the task has {classes} classes or more")


def count_outputs(model: MorphogeneticModel | Host, x: Tensor, y: Tensor, loss: str = CROSS_ENTROPY) -> int:
    """How many outputs the network gives; a copy is run, in evaluation mode. Raises EngineError as above."""
    with own_errors(x, "the network fails"), undisturbed_streams(x.device), torch.no_grad(), evaluating(model):
        attempt = copy_network(model) if model.is_users_own else model
        return checked_outputs(attempt(x.clone()), y, loss).shape[-1]


def check_step(model: MorphogeneticModel, x: Tensor, y: Tensor, loss: str = CROSS_ENTROPY) -> None:
    """Raises EngineError where a training step of the network by itself fails; a copy is run."""
    with own_errors(x), undisturbed_streams(x.device):
        PlainTraining([copy_network(model)], [OptimizerConfig()], loss).backward(x, y)


@contextmanager
def own_errors(x: Tensor, what: str = "the network's own training step fails") -> Iterator[None]:
    """Inside, what a network of any make raises becomes an EngineError of one line."""
    try:
        yield
    except EsperError:
        raise
    except Exception as error:
        raise EngineError(f"{what} on {list(x.shape)} {x.dtype}: {first_line(error)}") from error
