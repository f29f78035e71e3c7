"""What is wrong with a seed, told from its telemetry over the epochs."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from esper.leyline import SeedTelemetry, recorded_kind

GRADIENT_NORM_CLAMP = 10.0  # the feature a controller sees saturates here (SeedTelemetry.to_features)

# Only here do a seed's gradients say something: before it has not trained, and a fossil is a part of the host.
LEARNING_STAGES = frozenset({"TRAINING", "BLENDING", "PROBATIONARY"})


@dataclass(slots=True)
class SeedTrace:
    """One seed's gradient statistics over its life, and how many epochs in a row each complaint has held."""

    seed_id: str
    blueprint_id: str
    layer_id: str
    gradient_norms: deque[float]
    epochs: int = 0
    norm_sum: float = 0.0
    norm_max: float = 0.0
    health: float = 1.0
    streaks: dict[str, int] = field(default_factory=lambda: {"clamped": 0, "vanishing": 0, "exploding": 0})
    best_loss: float | None = None
    epochs_since_best: int = 0

    @property
    def mean_gradient_norm(self) -> float:
        """Mean over all epochs recorded."""
        return self.norm_sum / max(self.epochs, 1)


class DiagnosticTracker:
    """Keeps per-seed gradient statistics and says, in sentences, what a person should look at.

    Args:
        patience: epochs in a row a gradient complaint must hold before it is raised.
        plateau_epochs: epochs without an improvement of the validation loss by `plateau_delta` (nats) before a
            plateau is raised.
        window: gradient norms kept a seed.
    """

    def __init__(
        self,
        patience: int = 3,
        plateau_epochs: int = 6,
        plateau_delta: float = 1e-3,
        vanishing_threshold: float = 1e-7,
        exploding_threshold: float = 100.0,
        window: int = 50,
    ) -> None:
        self.patience = patience
        self.plateau_epochs = plateau_epochs
        self.plateau_delta = plateau_delta
        self.vanishing_threshold = vanishing_threshold
        self.exploding_threshold = exploding_threshold
        self.window = window
        self.traces: dict[tuple[str, str], SeedTrace] = {}

    def record(self, telemetry: SeedTelemetry, loss: float | None = None) -> None:
        """One seed's epoch; `loss` is its member's validation loss (nats), without which no plateau is told."""
        key = (telemetry.layer_id, telemetry.seed_id)
        if key not in self.traces:
            norms: deque[float] = deque(maxlen=self.window)
            self.traces[key] = SeedTrace(telemetry.seed_id, telemetry.blueprint_id, telemetry.layer_id, norms)
        trace = self.traces[key]
        norm = telemetry.gradient_norm
        trace.gradient_norms.append(norm)
        trace.epochs += 1
        trace.norm_sum += norm
        trace.norm_max = max(trace.norm_max, norm)
        trace.health = telemetry.gradient_health
        holds = {
            "clamped": norm >= GRADIENT_NORM_CLAMP,
            "vanishing": telemetry.has_vanishing or norm < self.vanishing_threshold,
            "exploding": telemetry.has_exploding or not norm <= self.exploding_threshold,  # NaN explodes too
        }
        for name, is_so in holds.items():
            trace.streaks[name] = trace.streaks[name] + 1 if is_so else 0
        if loss is not None:
            if trace.best_loss is None or loss < trace.best_loss - self.plateau_delta:
                trace.best_loss, trace.epochs_since_best = loss, 0
            else:
                trace.epochs_since_best += 1

    def diagnostics(self) -> list[str]:
        """What holds for each seed at its last recorded epoch, one sentence each, oldest seed first."""
        return [sentence for trace in self.traces.values() for sentence in self._complaints(trace)]

    def _complaints(self, trace: SeedTrace) -> Iterator[str]:
        where = f"{trace.layer_id}: " if trace.layer_id else ""
        seed = f"{where}seed {trace.seed_id}" + (f" ({trace.blueprint_id})" if trace.blueprint_id else "")
        last = trace.gradient_norms[-1]
        if (epochs := trace.streaks["exploding"]) >= self.patience:
            yield f"{seed}: gradients have been exploding for {epochs} epochs (norm {last:.3g})."
        if (epochs := trace.streaks["clamped"]) >= self.patience:
            yield (
                f"{seed}: the gradient-norm feature clamp ({GRADIENT_NORM_CLAMP:.0f}) has been pegged for {epochs} "
                f"epochs (true norm {last:.3g}); controllers cannot see it change."
            )
        if (epochs := trace.streaks["vanishing"]) >= self.patience:
            yield f"{seed}: gradients have been vanishing for {epochs} epochs (norm {last:.3g})."
        if trace.epochs_since_best >= self.plateau_epochs:
            yield (
                f"{seed}: validation loss has not improved by {self.plateau_delta:g} for "
                f"{trace.epochs_since_best} epochs (best {trace.best_loss:.4g})."
            )


def seeds_of_record(record: dict[str, Any]) -> Iterator[tuple[SeedTelemetry, float | None]]:
    """Telemetry of every learning seed in one line of metrics.jsonl, with its member's validation loss (nats)."""
    for member in record.get("members", ()):
        for slot, state in (member.get("slots") or {}).items():
            norm = state.get("gradient_norm")
            if not state.get("seed") or norm is None or state.get("stage") not in LEARNING_STAGES:
                continue
            telemetry = SeedTelemetry(
                seed_id=state["seed"],
                blueprint_id=state.get("blueprint") or "",
                layer_id=f"member {member['member']}, {slot}",
                gradient_norm=norm,
                accuracy=member.get(f"val_{recorded_kind(member).name}") or 0.0,
                epochs_in_stage=state.get("epochs_in_stage") or 0,
                stage=state.get("stage_value") or 1,
                alpha=state.get("alpha") or 0.0,
                epoch=record.get("epoch", 0),
            )
            yield telemetry, member.get("val_loss")
