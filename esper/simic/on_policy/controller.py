"""A learned policy as a controller of an ordinary run."""

import base64
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from esper.leyline import Action, ActionLayout, EpochReport
from esper.simic.learner import Learner, action_name, check_names
from esper.tamiyo.observation import ObservationEncoder, action_masks


class LearnedController:
    """Decides as a learner does, from the reports of any number of members; learns nothing.

    Args:
        deterministic: takes the likeliest choice at every step, instead of drawing.
        seed: of the draws.

    Raises:
        LearnerError: the policy was trained with other features or actions; it names them.
    """

    def __init__(
        self,
        learner: Learner,
        encoder: ObservationEncoder,
        layout: ActionLayout,
        deterministic: bool = False,
        seed: int = 0,
    ) -> None:
        check_names("features", encoder.names, learner.features)
        check_names("actions", [action_name(action) for action in layout.actions], learner.actions)
        self.learner, self.encoder, self.layout, self.deterministic = learner, encoder, layout, deterministic
        self._generator = torch.Generator().manual_seed(seed)
        self._memory: dict[int, Tensor] = {}  # by member, of a policy that has one

    def act(self, reports: Sequence[EpochReport]) -> list[Action]:
        """One action a report, in the same order; the reason tells how likely it was."""
        masks = action_masks(reports, self.layout)
        decision = self.learner.act(
            self.encoder.encode(reports), masks, self.deterministic, self._recall(reports), self._generator
        )
        if decision.memory is not None:
            self._memory |= {report.member: row for report, row in zip(reports, decision.memory, strict=True)}
        chances = decision.log_probs.exp().tolist()
        reasons = [
            f"chosen with probability {chance:.2f}" if mask.sum() > 1 else ""
            for chance, mask in zip(chances, masks, strict=True)
        ]
        return [
            replace(self.layout.actions[number], reason=reason)
            for number, reason in zip(decision.actions.tolist(), reasons, strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        """What is remembered of every member and where the draws stand, as plain JSON values."""
        return {
            "encoder": self.encoder.state_dict(),
            "generator": base64.b64encode(self._generator.get_state().numpy().tobytes()).decode(),
            "memory": {str(member): row.tolist() for member, row in self._memory.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state_dict` was taken."""
        self.encoder.load_state_dict(state["encoder"])
        drawn = bytearray(base64.b64decode(state["generator"]))
        self._generator.set_state(torch.frombuffer(drawn, dtype=torch.uint8))
        self._memory = {int(member): torch.tensor(row) for member, row in state["memory"].items()}

    def _recall(self, reports: Sequence[EpochReport]) -> Tensor | None:
        """What the policy remembers of each member [M, 2H]; an episode begins with its report of epoch 0."""
        fresh = self.learner.first_memory(len(reports))
        if fresh is None:
            return None
        rows = zip(reports, fresh, strict=True)
        return torch.stack(
            [new if report.epoch == 0 else self._memory.get(report.member, new).to(new) for report, new in rows]
        )
