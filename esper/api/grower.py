"""`Grower`: growth in a training loop of one's own."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from esper.api.learned import StoredPolicy
from esper.api.loop_governor import LoopGovernor
from esper.api.loop_growth import SLOTS, LoopGrowth
from esper.api.optimizer_groups import OptimizerGroups, Rejoin
from esper.api.policies import build_policy, policy_settings
from esper.api.scores import SCORE, SEEN, TRAINED, Evaluate, Reached, read_score
from esper.checks import is_whole, require, whole
from esper.engine.actions import SeedActions
from esper.errors import CheckpointError, ConfigError, EsperError, first_line
from esper.kasmina import MorphogeneticModel, QualityGates
from esper.kasmina.graft import check_arguments
from esper.kasmina.in_place import OwnHost, check_single
from esper.kasmina.slot import SeedSlot
from esper.leyline import EpochReport, GateConfig, GovernorConfig, TelemetryEvent

_NO_END = 1_000_000  # epochs, of a loop whose length is not told


class Grower:
    """Plants seeds in a network that you train yourself, and lets them grow, blend and go.

        grower = esper.Grower(model, slots={"mid": "layer2"}, example=x[:1], policy="heuristic", optimizer=optimizer)
        for epoch in range(epochs):
            for x, y in loader:
                optimizer.zero_grad(); loss(model(x), y).backward(); optimizer.step(); grower.step()
            grower.end_epoch(accuracy(model), evaluate=accuracy)

    The network itself grows: `model(x)` runs its seeds, and `model.parameters()`, `model.to()`, `model.eval()` and
    `model.state_dict()` include them (as the submodule `esper_slots`). Compile it, or hand it to DataParallel, when
    growth is over: both go on with the network that they were given.

    Args:
        model: any module of one process, not compiled.
        slots: slot name -> path of a submodule, as for `esper.grow`.
        example: an input [B, ...] to try the network on.
        policy: who decides: "heuristic", "scheduled", "random", "static", or another rule that is registered; or a run
            in which a policy was learned, or a file of one, as of `policy.load`.
        optimizer: of torch.optim, with the network's parameters. Seeds join the group of the layer they are behind.
            None: it is assigned to `grower.optimizer` before the first step.
        epochs: that the loop will have, where that is known: no seed is then planted too late to earn its place. A
            policy that was learned has to know.
        blending_epochs: that a seed takes to blend in.
        blueprint_names: what may be planted (None: all that there are for the topology).
        gates: what a seed must show, in points of the score.
        governor: when the network counts as diverged. It is then put back to a copy, kept in memory. None: never.
        topology: of the features, where the layers do not tell: "cnn", "cnn1d", "transformer" or "mlp".
        seed: of all that is random in growing; nothing is drawn from torch's own stream.
        options: of the policy, as conf/policy has them: `first_plant_epoch=1`.

    Attributes: `model`: the network; `slots`: by name; `report`: of the last epoch (None before the first); `log`: what
    was planted where, and when; `retired`: whether the governor has ended growth.

    Raises: ConfigError or BlueprintError, with the reason; nothing has changed then.
    """

    def __init__(
        self,
        model: nn.Module,
        slots: Mapping[str, str],
        example: Tensor,
        policy: str = "heuristic",
        optimizer: torch.optim.Optimizer | None = None,
        *,
        epochs: int | None = None,
        blending_epochs: int = 3,
        blueprint_names: Sequence[str] | None = None,
        gates: GateConfig | None = None,
        governor: GovernorConfig | None = None,
        topology: str | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        if epochs is not None:
            whole("epochs", epochs, 1)
        whole("blending_epochs", blending_epochs, 1)
        require(is_whole(seed), "seed", seed, "a whole number")
        require(gates is None or isinstance(gates, GateConfig), "gates", gates, "an esper.leyline.GateConfig")
        settings = policy_settings(policy, options)
        self._has_learned = isinstance(settings, StoredPolicy)
        if self._has_learned and epochs is None:
            raise ConfigError(f"epochs: policy={policy!r} has learned for courses that end; say how many the loop has")
        check_arguments("Grower", model, slots, example)
        check_single(model)
        host = OwnHost(model, slots, example, topology)
        grown = MorphogeneticModel(host, example.device, list(host.injection_points), slot_config=SLOTS)
        controller, names = build_policy(settings, host.topology, grown.slots, blueprint_names, seed)
        groups = None if optimizer is None else OptimizerGroups(optimizer, grown, model, slots)
        self.model = model
        self.slots: dict[str, SeedSlot] = grown.slots
        self._positions = dict(slots)
        self._governor = None if governor is None else LoopGovernor(governor, model)
        self._growth = LoopGrowth(
            model,
            grown,
            controller,
            SeedActions([grown], QualityGates(gates), names),
            self._governor,
            groups,
            input_shape=tuple(example.shape[1:]),
            epochs=epochs or _NO_END,
            blending_epochs=blending_epochs,
            seed=seed,
        )
        host.attach()
        model.register_load_state_dict_post_hook(Rejoin(self._growth))
        self._growth.begin(self._has_learned)

    @property
    def optimizer(self) -> torch.optim.Optimizer | None:
        """The loop's optimizer; assigning one lets the seeds join it. Raises: ConfigError where it cannot take them."""
        groups = self._growth.groups
        return None if groups is None else groups.optimizer

    @optimizer.setter
    def optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        groups = OptimizerGroups(optimizer, self._growth.grown, self.model, self._positions)
        groups.sync()
        self._growth.groups = groups

    @property
    def report(self) -> EpochReport | None:
        """Of the last epoch, as a policy gets it; None before the first."""
        return self._growth.report

    @property
    def log(self) -> list[dict[str, Any]]:
        """An entry for each seed that was planted: epoch, slot, blueprint, blend, reason."""
        return self._growth.actions.log

    @property
    def retired(self) -> bool:
        """Whether the governor has put the network back as often as it may: nothing grows in it any more."""
        return self._growth.retired

    def step(self) -> None:
        """Count a training step: call it after `optimizer.step()`, while the gradients are still there.

        Raises: EsperError where a seed that learns has no gradient, or there is no optimizer yet.
        """
        if self.optimizer is None:
            raise EsperError("Grower.step: there is no optimizer yet; give optimizer=, or assign grower.optimizer")
        self._growth.step()

    def end_epoch(
        self, val_score: Reached, evaluate: Evaluate | None = None, trained: tuple[float, float] | None = None
    ) -> list[TelemetryEvent]:
        """End an epoch of training: seeds move on as their gates allow, and the policy decides what comes next.

        Args:
            val_score: the network's validation score; it grows, in points, such as percent of accuracy. (A loss: minus
                it; then say with `gates` what a point is.) Or a pair of it and the loss.
            evaluate: gives the same of the network that it is handed, which is in evaluation mode. It is called for
                each seed that blends or is on probation, with that seed left out. Without it no seed's worth is known,
                and none can stay for good.
            trained: score and mean loss of this epoch's training. The governor watches it, and a policy that was
                learned asks for it and for pairs.

        Returns: what happened, in order: seeds planted, gates passed or not, stages entered, the network put back.

        Raises: ConfigError where a score is no number, EsperError where no step was counted since the last epoch;
        nothing has changed then.
        """
        may_diverge = self._governor is not None
        validated = read_score(
            "val_score", val_score, SEEN if self._has_learned else SCORE, self._has_learned, may_diverge
        )
        learned = None
        if trained is not None or self._has_learned:
            learned = read_score("trained", trained, TRAINED, True, may_diverge)
        if not self._growth.steps:
            raise EsperError("Grower.end_epoch: no step was counted in this epoch; call grower.step() after each")
        return self._growth.end_epoch(validated, learned, evaluate, self._has_learned)

    def state_dict(self) -> dict[str, Any]:
        """All that decides what comes next, as tensors and plain values: network, optimizer and growth; copies."""
        optimizer = copy.deepcopy(self.optimizer.state_dict()) if self.optimizer else None
        return {"growth": self.growth_state(), "model": copy.deepcopy(self.model.state_dict()), "optimizer": optimizer}

    def growth_state(self) -> dict[str, Any]:
        """Of `state_dict` what is neither in the network's state nor in the optimizer's, as plain values.

        With a governor, the tensors of its last copy are in it, too.
        """
        return self._growth.state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken, from a Grower that was made with the same arguments.

        What the loop itself keeps, such as the order of its data or a schedule of rates, is the loop's to restore.

        Raises: CheckpointError where the state is of another network, optimizer or Grower; nothing has changed then.
        """
        before = self.state_dict()
        try:
            self._load(state)
        except Exception as error:  # torch has many kinds for what does not fit
            self._load(before)
            raise CheckpointError(f"Grower.load_state_dict: {first_line(error)}") from error

    def load_growth_state(self, state: Mapping[str, Any]) -> None:
        """Go on where `growth_state` was taken; network and optimizer are loaded by themselves."""
        self._growth.load_state(state)

    def _load(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])  # and so its seeds
        if self.optimizer is not None and state["optimizer"] is not None:
            self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.load_growth_state(state["growth"])
