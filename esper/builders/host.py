"""Hosts by name, the networks that a configuration can ask for, and members made of them."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from esper.config.host import (
    HOSTS,
    CNNHostConfig,
    CustomHostConfig,
    DecoderHostConfig,
    MLPHostConfig,
    ResNetHostConfig,
    TransformerHostConfig,
    ViTHostConfig,
)
from esper.config.root import RunConfig
from esper.errors import ConfigError
from esper.factories import call_factory
from esper.kasmina import (
    CNNHost,
    Decoder,
    MLPHost,
    MorphogeneticModel,
    ResNetHost,
    SlotConfig,
    TransformerHost,
    ViTHost,
)
from esper.kasmina.features import children_with_features
from esper.kasmina.graft import GraftedHost
from esper.kasmina.host import Host, resolve_slots
from esper.kasmina.seeding import weights_from
from esper.leyline import TaskConfig
from esper.tasks import Task
from esper.tasks.task import named_generator


def build_host(config: RunConfig, task: Task, seed: int, number: int, dtype: torch.dtype) -> Host:
    """The untrained host that a run of this seed gives its member of this number; on the CPU."""
    generator, name = named_generator(seed, f"host/{number}"), config.host.name
    offered: dict[str, Any] = {
        "task": task,
        "generator": generator,
        "input_shape": task.input_shape,
        "num_outputs": task.num_outputs,
    }
    if not HOSTS.parts[name].is_own:
        return HOSTS.build(config.host, **offered).to(dtype)
    with weights_from(generator):
        network: Any = HOSTS.build(config.host, **offered)
    if isinstance(network, Host):
        return network.to(dtype)
    if not isinstance(network, nn.Module):
        raise ConfigError(f"host={name}: {HOSTS.parts[name].target} gave a {type(network).__name__}, and no nn.Module")
    return grafted(network, task, getattr(config.host, "positions", None), f"host={name}").to(dtype)


def grafted(
    network: nn.Module, task: Task, positions: Sequence[str] | None, key: str, features: str | None = None
) -> GraftedHost:
    """The network with slots behind these submodules; None: behind each of its children that makes features.

    Args: key: what the positions were given as, for messages; features: their topology (None: told by the layers).
    """
    example = task.val_x[:1].cpu()
    network = network.to(example.dtype) if example.is_floating_point() else network
    if positions is None:
        positions = children_with_features(network, example, key)
    return GraftedHost(network, {path.replace(".", "_"): path for path in positions}, example, key, features)


def build_model(
    config: RunConfig, task: Task, member: int, device: torch.device, dtype: torch.dtype
) -> MorphogeneticModel:
    """One member; two of the same number start from the same weights."""
    steps = -(-task.epoch_size // config.batch_size)
    slots = config.slots
    host = build_host(config, task, config.seed, member, dtype)
    resolve_slots(slots.names, list(host.injection_points), "slots.names")
    return MorphogeneticModel(
        host=host,
        device=device,
        slots=slots.names,
        task_config=TaskConfig(host.topology, slots.blending_epochs * steps, task.num_outputs, config.epochs),
        slot_config=SlotConfig(
            blending_steps=slots.blending_epochs * steps,
            cull_steps=slots.cull_epochs * steps,
            embargo_epochs=slots.embargo_epochs,
            isolate_gradients=slots.isolate_gradients,
            max_ratio=slots.max_ratio,
        ),
    )


@HOSTS.register("cnn", CNNHostConfig)
def build_cnn(host: CNNHostConfig, task: Task, generator: torch.Generator) -> Host:
    """Convolutions, as wide as the configuration says."""
    return CNNHost(
        num_classes=task.num_outputs,
        n_blocks=len(host.channels),
        in_channels=task.input_shape[0],
        channels=host.channels,
        generator=generator,
    )


@HOSTS.register("transformer", TransformerHostConfig)
def build_transformer(host: TransformerHostConfig, task: Task, generator: torch.Generator) -> Host:
    """A decoder for windows as long as the task's."""
    (block_size,) = task.input_shape
    return TransformerHost(task.num_outputs, host.n_embd, host.n_head, host.n_layer, block_size, generator)


@HOSTS.register("decoder", DecoderHostConfig)
def build_decoder(host: DecoderHostConfig, task: Task, generator: torch.Generator) -> Host:
    """The forge's decoder, for windows as long as the task's."""
    (block_size,) = task.input_shape
    sizes = (task.num_outputs, host.n_embd, host.n_head, host.n_layer, block_size, host.window)
    return Decoder(*sizes, generator=generator)


@HOSTS.register("mlp", MLPHostConfig)
def build_mlp(host: MLPHostConfig, task: Task, generator: torch.Generator) -> Host:
    """Linear layers over all numbers of an example."""
    return MLPHost(task.num_outputs, math.prod(task.input_shape), host.widths, generator)


@HOSTS.register("resnet", ResNetHostConfig)
def build_resnet(host: ResNetHostConfig, task: Task, generator: torch.Generator) -> Host:
    """A residual network for the task's images."""
    return ResNetHost(task.num_outputs, host.depth, host.width, task.input_shape[0], generator)


@HOSTS.register("vit", ViTHostConfig)
def build_vit(host: ViTHostConfig, task: Task, generator: torch.Generator) -> Host:
    """A transformer over patches of the task's images."""
    sizes = (host.patch, host.n_embd, host.n_head, host.n_layer)
    return ViTHost(task.num_outputs, task.input_shape, *sizes, generator=generator)


@HOSTS.register("custom", CustomHostConfig)
def build_custom(host: CustomHostConfig, task: Task, generator: torch.Generator) -> Host:
    """The user's own network, with slots where the configuration wants them."""
    with weights_from(generator):
        network = call_factory("host.factory", host.factory, input_shape=task.input_shape, num_classes=task.num_outputs)
    if not isinstance(network, nn.Module):
        raise ConfigError(f"host.factory={host.factory}: expected an nn.Module, and it gave {type(network).__name__}")
    return grafted(network, task, host.positions, "host.positions", host.features)
