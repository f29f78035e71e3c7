"""The flat action space: every operation x slot x blueprint x blend that a controller can ask of one member."""

from dataclasses import dataclass
from functools import cached_property

from esper.leyline.actions import WAIT, Action, Operation

LEVELS = ("operation", "slot", "blueprint", "blend")


@dataclass(frozen=True)
class ActionLayout:
    """Numbers actions: 0 waits; then slot by slot each blueprint with each blend, an advance, a cull.

    slots: by depth. blueprints: that may be planted. blends: algorithms to choose from. A policy that was trained under
    one layout fits no other; `LEVELS` names what it chooses one after the other.
    """

    slots: tuple[str, ...]
    blueprints: tuple[str, ...]
    blends: tuple[str, ...]

    @cached_property
    def actions(self) -> tuple[Action, ...]:
        """[A] actions by number, without reasons."""
        actions = [WAIT]
        for slot in self.slots:
            actions += [
                Action(Operation.GERMINATE, slot, name, blend) for name in self.blueprints for blend in self.blends
            ]
            actions += [Action(Operation.ADVANCE, slot), Action(Operation.CULL, slot)]
        return tuple(actions)

    @cached_property
    def paths(self) -> tuple[tuple[int, ...], ...]:
        """[A] the choices that lead to each action, in the order of `LEVELS`: as many as the operation needs."""
        paths = []
        for action in self.actions:
            path = [int(action.operation)]
            if action.operation is not Operation.WAIT:
                path.append(self.slots.index(action.slot))
            if action.operation is Operation.GERMINATE:
                path += [self.blueprints.index(action.blueprint), self.blends.index(action.blend)]
            paths.append(tuple(path))
        return tuple(paths)

    @cached_property
    def _numbers(self) -> dict[tuple[str, ...], int]:
        return {_key(action): number for number, action in enumerate(self.actions)}

    def __len__(self) -> int:
        return len(self.actions)

    def number(self, action: Action) -> int:
        """The action's number, whatever its reason. Raises KeyError where the layout has no such action."""
        return self._numbers[_key(action)]


def _key(action: Action) -> tuple[str, ...]:
    parts = (action.operation.name, action.slot, action.blueprint, action.blend)
    needed = {Operation.WAIT: 1, Operation.GERMINATE: 4}.get(action.operation, 2)
    return parts[:needed]
