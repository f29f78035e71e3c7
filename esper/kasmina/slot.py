"""A place in a host where a seed can live."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from esper.errors import BlueprintError, LifecycleError
from esper.kasmina.blending import BlendGate, check_blend_algorithm
from esper.kasmina.blueprints import BlueprintRegistry
from esper.kasmina.copying import copy_network
from esper.kasmina.gates import GateConfig, QualityGates
from esper.kasmina.isolation import blend_update, guard_gradient, keep_finite, reaches_upstream, ste_update
from esper.kasmina.lifecycle import SlotConfig, SlotLifecycle
from esper.kasmina.probe import check_fit, check_gradient, check_identity, evaluating, shape_probe
from esper.kasmina.seeding import default_generator, undisturbed_streams, weights_from
from esper.kasmina.state import SeedState
from esper.leyline import SeedMetrics, SeedStage
from esper.leyline.topologies import is_by_token
from esper.registry import taken

__all__ = ["GateConfig", "QualityGates", "SeedMetrics", "SeedSlot", "SeedState", "SlotConfig"]

_COMPUTING = (
    SeedStage.TRAINING,
    SeedStage.BLENDING,
    SeedStage.PROBATIONARY,
    SeedStage.FOSSILIZED,
    SeedStage.CULLED,
)


class SeedSlot(SlotLifecycle):
    """The identity until a seed is planted; then the host's features and the seed's, as the seed's stage asks.

    What the slot does follows from `state.stage`, however that was reached. `bypass = True` takes the seed out of the
    forward pass.

    Args: slot_id: the slot's name; channels: C of the features; device; config; topology: of the host.
    """

    def __init__(
        self,
        slot_id: str,
        channels: int,
        device: torch.device | str = "cpu",
        config: SlotConfig | None = None,
        topology: str = "cnn",
    ) -> None:
        super().__init__(slot_id, config or SlotConfig())
        self.channels = channels
        self.topology = topology
        self._like = torch.empty(0, device=device)  # follows .to(): the device and dtype that seeds are made for
        self._probes: dict[str, Tensor] = {}
        # The module whose output goes through the slot, where a host says which: its own, and no submodule here.
        self.upstream: tuple[nn.Module, ...] = ()
        self.register_state_dict_pre_hook(_prune_before_state_dict)

    @property
    def device(self) -> torch.device:
        """Where the seed lives; assigning moves it."""
        return self._like.device

    @device.setter
    def device(self, device: torch.device | str) -> None:
        self._like = torch.empty(0, dtype=self._like.dtype, device=device)  # made, as "meta" tensors cannot be moved
        self.to(device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._like = fn(self._like)
        return super()._apply(fn, recurse)

    @property
    def computes(self) -> bool:
        """Whether a forward pass runs the seed."""
        return self.stage in _COMPUTING and not self.bypass and self.seed is not None

    def forward(self, host_features: Tensor) -> Tensor:
        """The features that go on into the host. Args: host_features [B, C, H, W] or [B, T, C]. Returns: the same."""
        seed, state = self.seed, self.state
        if seed is None or state is None or not self.computes:
            return host_features
        stage, alpha = state.stage, state.alpha
        is_isolated = stage is SeedStage.TRAINING and self.isolate_gradients
        features = host_features.detach() if is_isolated else guard_gradient(host_features)
        seed_features = seed(features)
        if stage is SeedStage.TRAINING and alpha == 0.0:
            update = ste_update(seed_features)
        else:
            gate = self.gate if state.has_gate else None
            update = blend_update(features, seed_features, alpha if gate is None else gate(features, alpha))
        # Only the update is cut: the host's own path keeps its exact values and gradients.
        update, is_finite = keep_finite(update)
        if self.training:  # evaluation judges nothing
            self.seed_is_finite = is_finite & self.seed_is_finite
        return host_features + update

    def leaks(self) -> bool:
        """Whether gradient passes through the seed to what is upstream; measured, unless its input is detached."""
        if self.isolate_gradients or not self.computes:
            return False
        slot = copy_network(self)
        with evaluating(slot), undisturbed_streams(self.device):
            return reaches_upstream(slot, self._get_shape_probe(self.topology))

    def germinate(
        self,
        blueprint_id: str,
        seed_id: str,
        host_module: nn.Module | None = None,
        blend_algorithm_id: str = "sigmoid",
        generator: torch.Generator | None = None,
    ) -> SeedState:
        """Plant a seed, with initial weights from `generator` (None: fixed by torch's seed and the names).

        The topology is the host's, or the slot's own when no host is given.

        Raises: LifecycleError when the slot is occupied or G0 refuses; BlueprintError when the blueprint does not exist
        or does not fit; ConfigError on an unknown blend. Nothing has changed then.
        """
        if self.state is not None:
            raise LifecycleError(
                f"slot {self.slot_id!r} holds seed {self.state.seed_id!r} ({self.stage.name}): "
                f"it takes {seed_id!r} only when dormant; cull or wait first"
            )
        topology = getattr(host_module, "topology", self.topology)
        state = SeedState(
            seed_id=seed_id,
            blueprint_id=blueprint_id,
            slot_id=self.slot_id,
            blend_algorithm_id=blend_algorithm_id,
            ramp_steps=self.config.blending_steps,
        )
        verdict = QualityGates().check_gate(state, SeedStage.GERMINATED)
        if not verdict.passed:
            raise LifecycleError(f"slot {self.slot_id!r} cannot take a seed: {verdict.message}")
        state.transition(SeedStage.GERMINATED)
        seed, gate = self._build(state, topology, generator or default_generator(self.slot_id, seed_id))
        self._check(seed, blueprint_id, topology)
        state.metrics.parameter_count = sum(parameter.numel() for parameter in seed.parameters())
        self.topology = topology
        self.hold(state, seed, gate)
        return state

    def try_blueprint(self, blueprint_id: str, topology: str) -> nn.Module:
        """A seed as it would be planted here. Raises: BlueprintError where it does not fit."""
        state = SeedState(seed_id="trial", blueprint_id=blueprint_id, slot_id=self.slot_id)
        seed, _ = self._build(state, topology, default_generator(self.slot_id, blueprint_id))
        self._check(seed, blueprint_id, topology)
        return seed

    def restore(self, plain: dict[str, Any] | None, topology: str) -> None:
        """Rebuild the seed that a plain state describes (None: empty the slot); its weights are loaded afterwards.

        Raises: BlueprintError or ConfigError when this esper does not know its blueprint or blend.
        """
        state = None if plain is None else SeedState.from_dict(plain)
        seed = gate = None
        if state is not None and state.has_seed:
            seed, gate = self._build(state, topology, default_generator(self.slot_id, state.seed_id))
        self.topology = topology
        self.hold(state, seed, gate)

    def _build(self, state: SeedState, topology: str, generator: torch.Generator) -> tuple[nn.Module, BlendGate | None]:
        check_blend_algorithm(state.blend_algorithm_id)
        spec = BlueprintRegistry.spec(topology, state.blueprint_id)
        offered = {"max_ratio": self.config.max_ratio} | dict(zip(("upstream",), self.upstream, strict=False))
        options = taken(spec.factory, offered)
        if spec.takes_upstream and not self.upstream:
            raise BlueprintError(f"blueprint {spec.name!r} asks for upstream, and this host does not say what that is")
        with weights_from(generator):
            seed = BlueprintRegistry.create(topology, state.blueprint_id, self.channels, **options)
            gate = BlendGate(self.channels, is_by_token(topology)) if state.has_gate else None
        for module in (seed, gate):
            if module is not None:
                module.to(device=self.device, dtype=self._like.dtype).train(self.training)
        return seed, gate

    def _check(self, seed: nn.Module, blueprint_id: str, topology: str) -> None:
        """Raises: BlueprintError where the seed does not fit, or one of a user's own is not the identity at birth."""
        what = f"blueprint {blueprint_id!r} in slot {self.slot_id!r}"
        check_fit(seed, self._get_shape_probe(topology), what)
        if BlueprintRegistry.spec(topology, blueprint_id).is_own:  # esper's are tested
            check_identity(seed, self._get_shape_probe(topology), what)
            check_gradient(seed, self._get_shape_probe(topology), what)

    def _get_shape_probe(self, topology: str) -> Tensor:
        """Features of this slot's width to try a seed on; the same tensor each time, until device or dtype change."""
        probe = self._probes.get(topology)
        if probe is None or (probe.device, probe.dtype) != (self.device, self._like.dtype):
            probe = self._probes[topology] = shape_probe(topology, self.channels).to(self._like)
        return probe

    def get_extra_state(self) -> dict[str, Any]:
        """What rebuilds the slot, in plain values."""
        extra: dict[str, Any] = {
            "isolate_gradients": self.isolate_gradients,
            "topology": self.topology,
            "seed_state": None if self.state is None else self.state.to_dict(),
        }
        if (schedule := self.alpha_schedule) is not None:
            extra["alpha_schedule_config"] = {
                "algorithm_id": schedule.algorithm_id,
                "total_steps": schedule.total_steps,
            }
        return extra

    def set_extra_state(self, extra: dict[str, Any]) -> None:
        """Rebuild what `get_extra_state` described, before the weights are read."""
        self.isolate_gradients = extra["isolate_gradients"]
        self.restore(extra["seed_state"], extra["topology"])


def _prune_before_state_dict(slot: SeedSlot, prefix: str, keep_vars: bool) -> None:
    slot.prune()
