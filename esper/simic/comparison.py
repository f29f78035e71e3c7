"""What a learned controller and a rule see alike, so that they can be compared."""

import warnings
from dataclasses import asdict

from esper.leyline import SeedTelemetry
from esper.simic.episodes import TrainingSnapshot
from esper.simic.features import obs_to_base_features


def snapshot_to_features(
    snapshot: TrainingSnapshot, use_telemetry: bool = False, seed_telemetry: SeedTelemetry | None = None
) -> list[float]:
    """The 27 base features of a snapshot; with telemetry 37, the seed's 10 last.

    Telemetry that is asked for and not given: a UserWarning and ten zeros.
    """
    features = obs_to_base_features(asdict(snapshot))
    if not use_telemetry:
        return features
    if seed_telemetry is None:
        warnings.warn(
            "use_telemetry=True without seed_telemetry: its ten features are zeros. Pass seed_telemetry=.",
            UserWarning,
            stacklevel=2,
        )
        return features + [0.0] * SeedTelemetry.feature_dim()
    return features + seed_telemetry.to_features()
