"""A controller of a user's own, as a run takes it: what goes wrong in it is said in a line."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from esper.checks import require
from esper.errors import ConfigError
from esper.factories import own_code
from esper.files.atomic import as_unicode
from esper.leyline import Action, EpochReport, Operation

_KINDS = {"operation": Operation} | dict.fromkeys(("slot", "blueprint", "blend", "reason"), str)
METHODS = ("act", "state_dict", "load_state_dict")


class OwnController:
    """Hands on to what a plugin built, and checks what comes back.

    Raises: ConfigError where it has not all that a run asks of a controller, and, from each method, where that fails.
    """

    def __init__(self, name: str, controller: Any) -> None:
        self.name = name
        self.controller = controller
        for method in METHODS:
            if not callable(getattr(controller, method, None)):
                why = "a run keeps checkpoints, and goes on from them" if method != METHODS[0] else "it decides nothing"
                raise ConfigError(f"policy={name}: {type(controller).__name__} has no method {method}: {why}")

    def act(self, reports: Sequence[EpochReport]) -> list[Action]:
        """One action a report, in the same order."""
        with own_code(f"policy={self.name}"):
            actions = self.controller.act(reports)
        if not isinstance(actions, Sequence) or not all(isinstance(action, Action) for action in actions):
            raise ConfigError(
                f"policy={self.name}: act gave {_kinds(actions)}; expected a list of esper.leyline.Action"
            )
        if len(actions) != len(reports):
            raise ConfigError(f"policy={self.name}: act gave {len(actions)} actions for {len(reports)} reports")
        for action in actions:
            for name, kind in _KINDS.items():
                value = getattr(action, name)
                expected = f"one of {', '.join(Operation.__members__)}" if kind is Operation else "text"
                require(isinstance(value, kind), f"policy={self.name}: {name} of an action", value, expected)
        return [replace(action, reason=as_unicode(action.reason)) for action in actions]

    def state_dict(self) -> dict[str, Any]:
        """What the controller remembers."""
        with own_code(f"policy={self.name}"):
            state = self.controller.state_dict()
        if not isinstance(state, dict):
            raise ConfigError(f"policy={self.name}: state_dict gave {_kinds(state)}; expected a dict of plain values")
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken."""
        with own_code(f"policy={self.name}"):
            self.controller.load_state_dict(state)


def _kinds(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        kinds = sorted({type(item).__name__ for item in value})
        return f"a {type(value).__name__} of {' and '.join(kinds)}"
    return f"a {type(value).__name__}"
