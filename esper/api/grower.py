"""`Grower`: growth in a training loop of one's own."""

import copy
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from esper.api.optimizer_groups import OptimizerGroups
from esper.api.rules import build_rule, rule_settings
from esper.api.seed_gradients import note, seed_gradients
from esper.checks import is_number, is_whole, require, whole
from esper.engine.actions import Episode, SeedActions
from esper.engine.growth import MEASURED
from esper.engine.reports import UNKNOWN, Score, member_report, plain_report, report_from_plain
from esper.errors import CheckpointError, EsperError, first_line
from esper.files import checked
from esper.files.shapes import ANY, Count
from esper.kasmina import MorphogeneticModel, QualityGates, SlotConfig
from esper.kasmina.graft import check_arguments
from esper.kasmina.in_place import OwnHost, check_single
from esper.kasmina.probe import evaluating
from esper.kasmina.seeding import undisturbed_streams
from esper.kasmina.slot import SeedSlot
from esper.leyline import EpochReport, GateConfig, TelemetryEvent

_SLOTS = SlotConfig(embargo_epochs=2)  # as conf/slots has it
_STATE = {
    "epoch": Count(1 << 31),
    "steps": Count(1 << 53),
    "report": (dict, None),
    "log": [dict],
    "controller": dict,
    "slots": {ANY: {"is_finite": bool, "gradients": ([float], None)}},
}
Evaluate = Callable[[nn.Module], float | Tensor]


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
        policy: who decides: "heuristic", "scheduled", "random", "static", or another rule that is registered.
        optimizer: of torch.optim, with the network's parameters. Seeds join the group of the layer they are behind.
            None: it is assigned to `grower.optimizer` before the first step.
        epochs: that the loop will have, where that is known: no seed is then planted too late to earn its place.
        blending_epochs: that a seed takes to blend in.
        blueprint_names: what may be planted (None: all that there are for the topology).
        gates: what a seed must show, in points of the score.
        topology: of the features, where the layers do not tell: "cnn", "cnn1d", "transformer" or "mlp".
        seed: of all that is random in growing; nothing is drawn from torch's own stream.
        options: of the policy, as conf/policy has them: `first_plant_epoch=1`.

    Attributes: `model`: the network; `slots`: by name; `report`: of the last epoch (None before the first); `log`: what
    was planted where, and when.

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
        epochs: int = 1_000_000,
        blending_epochs: int = 3,
        blueprint_names: Sequence[str] | None = None,
        gates: GateConfig | None = None,
        topology: str | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        whole("epochs", epochs, 1)
        whole("blending_epochs", blending_epochs, 1)
        require(is_whole(seed), "seed", seed, "a whole number")
        require(gates is None or isinstance(gates, GateConfig), "gates", gates, "an esper.leyline.GateConfig")
        settings = rule_settings(policy, options)
        check_arguments("Grower", model, slots, example)
        check_single(model)
        host = OwnHost(model, slots, example, topology)
        grown = MorphogeneticModel(host, example.device, list(host.injection_points), slot_config=_SLOTS)
        self._controller, names = build_rule(settings, host.topology, grown.slots, blueprint_names, seed)
        self._groups = None if optimizer is None else OptimizerGroups(optimizer, grown, model, slots)
        self.model = model
        self.slots: dict[str, SeedSlot] = grown.slots
        self.report: EpochReport | None = None
        self._grown, self._positions = grown, dict(slots)
        self._gates = QualityGates(gates)
        self._actions = SeedActions([grown], self._gates, names)
        self._episode = Episode(seed, 0)
        self._input_shape = tuple(example.shape[1:])
        self._epochs, self._blending_epochs = epochs, blending_epochs
        self._epoch = self._steps = 0
        self._gradients: dict[str, Tensor] = {}
        host.attach()
        model.register_load_state_dict_post_hook(_Rejoin(self))

    @property
    def optimizer(self) -> torch.optim.Optimizer | None:
        """The loop's optimizer; assigning one lets the seeds join it. Raises: ConfigError where it cannot take them."""
        return None if self._groups is None else self._groups.optimizer

    @optimizer.setter
    def optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        self._groups = OptimizerGroups(optimizer, self._grown, self.model, self._positions)
        self._groups.sync()

    @property
    def log(self) -> list[dict[str, Any]]:
        """An entry for each seed that was planted: epoch, slot, blueprint, blend, reason."""
        return self._actions.log

    def step(self) -> None:
        """Count a training step: call it after `optimizer.step()`, while the gradients are still there.

        Raises: EsperError where a seed that learns has no gradient, or there is no optimizer yet.
        """
        if self._groups is None:
            raise EsperError("Grower.step: there is no optimizer yet; give optimizer=, or assign grower.optimizer")
        self._gradients = seed_gradients(self._grown)
        self._steps += 1
        for slot in self.slots.values():
            slot.step()

    def end_epoch(self, val_score: float | Tensor, evaluate: Evaluate | None = None) -> list[TelemetryEvent]:
        """End an epoch of training: seeds move on as their gates allow, and the policy decides what comes next.

        Args:
            val_score: the network's validation score; it grows, in points, such as percent of accuracy. (A loss: minus
                it; then say with `gates` what a point is.)
            evaluate: gives the score of the network that it is handed, which is in evaluation mode. It is called for
                each seed that blends or is on probation, with that seed left out. Without it no seed's worth is known,
                and none can stay for good.

        Returns: what happened, in order: seeds planted, gates passed or not, stages entered.

        Raises: ConfigError where a score is no number, EsperError where no step was counted since the last epoch;
        nothing has changed then.
        """
        score = _number("val_score", val_score, "a number that grows, such as percent of accuracy")
        if not self._steps:
            raise EsperError("Grower.end_epoch: no step was counted in this epoch; call grower.step() after each")
        without = {} if evaluate is None else self._evaluate_without(evaluate)
        self._epoch += 1
        blending = replace(_SLOTS, blending_steps=self._blending_epochs * self._steps, cull_steps=self._steps)
        events: list[TelemetryEvent] = []
        for name, slot in self.slots.items():
            slot.config = blending
            if slot.state is not None and name in without:
                slot.state.metrics.counterfactual_contribution = score - without[name].score
            if slot.state is not None and name in self._gradients:
                note(slot.state, self._gradients[name].tolist(), self._epoch, self._epochs)
            events += slot.end_epoch(score, self._gates)
        self._steps, self._gradients = 0, {}
        self.report = self._report(score, without)
        (action,) = self._controller.act([self.report])
        asked = self._actions.act(0, action, self._episode, self._epoch + 1)
        if self._groups is not None:
            self._groups.sync()
        for event in events + asked:
            event.epoch, event.member = self._epoch + (event in asked), 0
        return events + asked

    def state_dict(self) -> dict[str, Any]:
        """All that decides what comes next, as tensors and plain values: network, optimizer and growth; copies."""
        optimizer = copy.deepcopy(self.optimizer.state_dict()) if self.optimizer else None
        return {"growth": self.growth_state(), "model": copy.deepcopy(self.model.state_dict()), "optimizer": optimizer}

    def growth_state(self) -> dict[str, Any]:
        """Of `state_dict` what is neither in the network's state nor in the optimizer's, as plain values."""
        figures = {name: gradients.tolist() for name, gradients in self._gradients.items()}
        return {
            "epoch": self._epoch,
            "steps": self._steps,
            "report": None if self.report is None else plain_report(self.report),
            "log": copy.deepcopy(self.log),
            "controller": copy.deepcopy(self._controller.state_dict()),
            "slots": {
                name: {"is_finite": bool(slot.seed_is_finite), "gradients": figures.get(name)}
                for name, slot in self.slots.items()
            },
        }

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
        plain = copy.deepcopy(checked({name: state[name] for name in _STATE}, _STATE, "state"))
        if plain["slots"].keys() != self.slots.keys():
            raise CheckpointError(f"its slots are {', '.join(plain['slots'])}; here: {', '.join(self.slots)}")
        self._controller.load_state_dict(plain["controller"])
        self._epoch, self._steps = plain["epoch"], plain["steps"]
        self._actions.log = plain["log"]
        self.report = None if plain["report"] is None else report_from_plain(plain["report"])
        of_slots = plain["slots"].items()
        for name, of_slot in of_slots:
            self.slots[name].seed_is_finite = of_slot["is_finite"]
        self._gradients = {name: torch.tensor(kept["gradients"]) for name, kept in of_slots if kept["gradients"]}

    def _load(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])  # and so its seeds
        if self.optimizer is not None and state["optimizer"] is not None:
            self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.load_growth_state(state["growth"])

    def _evaluate_without(self, evaluate: Evaluate) -> dict[str, Score]:
        """Slot -> loss and score of the network without the seed there, of those whose worth is asked for."""
        found = {}
        measured = {name: slot for name, slot in self.slots.items() if slot.stage in MEASURED}
        for name, slot in measured.items():
            slot.bypass = True
            try:
                with evaluating(self.model), undisturbed_streams(slot.device), torch.no_grad():
                    score = _number("evaluate", evaluate(self.model), "a function that returns a number")
            finally:
                slot.bypass = False
            found[name] = Score(-score, score)
        return found

    def _report(self, score: float, without: Mapping[str, Score]) -> EpochReport:
        best = score if self.report is None else max(score, self.report.best_val_accuracy)
        known = {"member": 0, "epoch": self._epoch, "max_epochs": self._epochs, "best_val_accuracy": best}
        # Of losses nothing is known: what falls as the score grows stands in for them.
        return member_report(
            self._grown, self._gates, self._input_shape, UNKNOWN, Score(-score, score), without, **known
        )


def _number(key: str, value: Any, expected: str) -> float:
    """The value, which may be a tensor of one element. Raises: ConfigError where it is no finite number."""
    plain = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    require(is_number(plain), key, plain, expected)
    return float(plain)


class _Rejoin:
    """A hook of the network's load_state_dict, which makes seeds anew: their parameters take the old ones' places.

    A copy of the network is no longer the Grower's, and neither is a copy of this.
    """

    def __init__(self, grower: Grower | None = None) -> None:
        self._grower = (lambda: None) if grower is None else weakref.ref(grower)

    def __call__(self, module: nn.Module, incompatible_keys: Any) -> None:
        grower = self._grower()
        if grower is not None and grower._groups is not None:
            grower._groups.sync()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return _Rejoin, ()
