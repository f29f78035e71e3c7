"""Mixtures of experts for each choice of the router, searched by loss, active experts, and networks in use."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from esper.checkpoint.plain import to_json
from esper.checks import is_number
from esper.errors import CheckpointError, FormatError, first_line
from esper.files import read_object, write_atomic
from esper.forge.examples import IGNORED
from esper.forge.experts.nsga2 import Evaluated
from esper.forge.experts.routed import WEIGHT_STEP
from esper.forge.experts.singular_values import SingularValues, mixed
from esper.forge.phase import Interrupted
from esper.tasks.task import named_generator

MOST_STEPS = 3  # of WEIGHT_STEP: an expert counts at most half as much again as it was trained to
TOLERANCE = 5e-4  # of the base's loss, by which a mixture may lose to the best one where fewer experts are active
REFERENCE = torch.tensor([1.0, 1.1, 1.1])  # of the hypervolume: the base's loss, and more than there can be

Row = tuple[int, ...]


class MixtureAims:
    """What a candidate is judged by: its weights for all choices, a point in the unit cube [M * K].

    Three aims: loss, as a share of the base's; experts active in a sequence, of all; different networks that a batch of
    all kinds is read by, of as many as there can be, which is what its latency goes with. All follow from the weights
    and the text, so that a search can be gone on with exactly; losses are kept in a file as they are measured.

    Args: experts: z - 1 of each, [K, R]. owners: the choice that each was trained for. texts: x, y of each choice, y
    IGNORED where nothing counts. shares: of each choice among all that is read. path: of the file.
    """

    def __init__(
        self,
        scaled: SingularValues,
        experts: Tensor,
        owners: Sequence[int],
        texts: Sequence[tuple[Tensor, Tensor]],
        shares: Tensor,
        path: Path,
        should_stop: Callable[[], bool],
    ) -> None:
        self._scaled, self._experts, self._owners, self._texts = scaled, experts, owners, texts
        self._shares = shares.double() / shares.sum()
        self._path, self._should_stop = path, should_stop
        self.choices, self.count = len(texts), len(experts)
        self._losses: dict[str, float] = _read_losses(path) if path.exists() else {}
        self._base = self._loss(torch.zeros(self.choices, self.count, dtype=torch.int64).tolist())

    def steps(self, point: Tensor) -> Tensor:
        """A point [M * K] as weights in steps of WEIGHT_STEP, [M, K] int64."""
        return (point * MOST_STEPS).round().long().view(self.choices, self.count)

    def __call__(self, points: Tensor) -> Tensor:
        """Args: [N, M * K]. Returns: [N, 3] float64."""
        return torch.stack([self._aims(self.steps(point)) for point in points])

    def _aims(self, steps: Tensor) -> Tensor:
        networks = len({tuple(row) for row in steps.tolist()}) / self.choices
        return torch.tensor(
            [self._loss(steps.tolist()) / self._base, self.active(steps) / self.count, networks], dtype=torch.float64
        )

    def _loss(self, rows: list[list[int]]) -> float:
        losses = [self._loss_of(choice, tuple(row)) for choice, row in enumerate(rows)]
        return float(self._shares @ torch.tensor(losses, dtype=torch.float64))

    @torch.inference_mode()
    def _loss_of(self, choice: int, row: Row) -> float:
        """Mean nats a token of one choice's text by one mixture."""
        x, y = self._texts[choice]
        if not (y != IGNORED).any():  # none, or only texts that end before the first stage
            return 0.0
        key = json.dumps([choice, *row])
        if key not in self._losses:
            if self._should_stop():
                self.keep()
                raise Interrupted("mixtures")
            weights = WEIGHT_STEP * torch.tensor(row)
            logits = self._scaled.by(mixed(self._experts.unbind(), weights), x)
            self._losses[key] = float(F.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=IGNORED))
        return self._losses[key]

    def active(self, steps: Tensor) -> float:
        """Experts active in a sequence, on average. Args: weights in steps, [M, K]."""
        return float(self._shares @ (steps > 0).sum(1).double())

    def keep(self) -> None:
        """Write the losses that were measured."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self._path, to_json({"losses": self._losses}).encode())

    def first_population(self, count: int, seed: int, name: str) -> Tensor:
        """The base, each kind by its own expert, all by all; and others, some sparse, some not. Returns: [N, M * K]."""
        own = torch.zeros(self.choices, self.count)
        own[list(self._owners), range(self.count)] = 1 / (MOST_STEPS * WEIGHT_STEP)
        own = own.flatten()
        even = torch.full_like(own, 1 / (MOST_STEPS * WEIGHT_STEP * self.count))
        known = torch.stack([torch.zeros_like(own), own, even]).double()[:count]
        generator = named_generator(seed, f"experts/{name}")
        return torch.cat((known, random_points(count - len(known), len(own), generator)))

    def choose(self, searches: Sequence[Evaluated]) -> Tensor:
        """Of all that was found, the mixtures with the fewest active experts among the best. Returns: [M, K] uint8."""
        points = torch.cat([search.points for search in searches])
        aims = torch.cat([search.aims for search in searches])
        is_good = aims[:, 0] <= aims[:, 0].min() + TOLERANCE
        order = sorted(is_good.nonzero()[:, 0].tolist(), key=lambda n: (aims[n, 1:].sum().item(), aims[n, 0].item()))
        return self.steps(points[order[0]]).to(torch.uint8)

    def opening(self, mixtures: Tensor) -> Tensor:
        """Of these mixtures, each expert alone, and the base, the best where nobody has chosen yet: on all text alike.

        Args: [M, K] uint8. Returns: [K] uint8.
        """
        alone = torch.eye(self.count, dtype=torch.uint8) * round(1 / WEIGHT_STEP)
        rows = torch.cat((torch.zeros_like(mixtures[:1]), alone, mixtures)).unique(dim=0)
        losses = [self._loss([row.tolist()] * self.choices) for row in rows]
        return rows[losses.index(min(losses))]


def random_points(count: int, width: int, generator: torch.Generator) -> Tensor:
    """Points of the unit cube with ever other shares of zeros, [N, D] float64."""
    density = torch.rand(count, 1, generator=generator, dtype=torch.float64)
    is_kept = torch.rand(count, width, generator=generator, dtype=torch.float64) < density
    return is_kept * torch.rand(count, width, generator=generator, dtype=torch.float64)


def _read_losses(path: Path) -> dict[str, float]:
    try:
        losses: dict[str, float] = read_object(path, {"losses": dict})["losses"]
        if not all(is_number(loss) for loss in losses.values()):
            raise FormatError("a loss in it is no number")
        return losses
    except FormatError as error:
        raise CheckpointError(f"{path} is damaged: {first_line(error)}\n  to search anew, remove it") from None
