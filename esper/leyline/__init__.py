"""The contracts everyone speaks: stages, gates, actions, reports, telemetry, protocols."""

from esper.leyline.actions import WAIT, Action, Operation, SimicAction
from esper.leyline.gates import GateConfig, GateLevel, GateResult
from esper.leyline.governor import GovernorConfig
from esper.leyline.layout import LEVELS, ActionLayout
from esper.leyline.optimizer import OptimizerConfig
from esper.leyline.protocols import Controller, Sink
from esper.leyline.reports import EpochReport, SeedMetrics, SeedStateReport
from esper.leyline.score import (
    ACCURACY,
    CROSS_ENTROPY,
    LEAST_SCORE,
    LOSSES,
    R_SQUARED,
    SCORE_KINDS,
    ScoreKind,
    recorded_kind,
    score_kind,
)
from esper.leyline.stages import (
    ADVANCES,
    CULLABLE,
    VALID_TRANSITIONS,
    SeedStage,
    is_active_stage,
    is_failure_stage,
    is_terminal_stage,
    is_valid_transition,
)
from esper.leyline.task import TaskConfig
from esper.leyline.telemetry import (
    DEFAULT_BUDGETS,
    PerformanceBudgets,
    SeedTelemetry,
    TelemetryEvent,
    TelemetryEventType,
)

__all__ = [
    "ACCURACY",
    "ADVANCES",
    "CROSS_ENTROPY",
    "CULLABLE",
    "DEFAULT_BUDGETS",
    "LEAST_SCORE",
    "LEVELS",
    "LOSSES",
    "R_SQUARED",
    "SCORE_KINDS",
    "VALID_TRANSITIONS",
    "WAIT",
    "Action",
    "ActionLayout",
    "Controller",
    "EpochReport",
    "GateConfig",
    "GateLevel",
    "GateResult",
    "GovernorConfig",
    "Operation",
    "OptimizerConfig",
    "PerformanceBudgets",
    "ScoreKind",
    "SeedMetrics",
    "SeedStage",
    "SeedStateReport",
    "SeedTelemetry",
    "SimicAction",
    "Sink",
    "TaskConfig",
    "TelemetryEvent",
    "TelemetryEventType",
    "is_active_stage",
    "is_failure_stage",
    "is_terminal_stage",
    "is_valid_transition",
    "recorded_kind",
    "score_kind",
]
