"""The contracts everyone speaks: stages, gates, actions, reports, telemetry, protocols."""

from esper.leyline.actions import WAIT, Action, Operation, SimicAction
from esper.leyline.gates import GateConfig, GateLevel, GateResult
from esper.leyline.layout import LEVELS, ActionLayout
from esper.leyline.optimizer import OptimizerConfig
from esper.leyline.protocols import Controller, Sink
from esper.leyline.reports import EpochReport, SeedMetrics, SeedStateReport
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
    "ADVANCES",
    "CULLABLE",
    "DEFAULT_BUDGETS",
    "LEVELS",
    "VALID_TRANSITIONS",
    "WAIT",
    "Action",
    "ActionLayout",
    "Controller",
    "EpochReport",
    "GateConfig",
    "GateLevel",
    "GateResult",
    "Operation",
    "OptimizerConfig",
    "PerformanceBudgets",
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
]
