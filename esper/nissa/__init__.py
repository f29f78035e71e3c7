"""What is seen: the event hub, what it feeds (JSONL files, terminal, W&B, TensorBoard), diagnostics, and the report."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from esper.nissa.hub import EventHub
from esper.nissa.sinks.cutting import cut_back
from esper.nissa.sinks.jsonl import JsonlSink, read_jsonl
from esper.nissa.tracker import DiagnosticTracker

if TYPE_CHECKING:
    from esper.nissa.record_view import RunTitle
    from esper.nissa.report.summary import print_summary
    from esper.nissa.report.writer import write_report
    from esper.nissa.sinks.console import console_sink

# Loaded when first asked for: rich, numpy and jinja2 come with them.
_LAZY = {
    "RunTitle": "esper.nissa.record_view",
    "console_sink": "esper.nissa.sinks.console",
    "print_summary": "esper.nissa.report.summary",
    "write_report": "esper.nissa.report.writer",
}

__all__ = [
    "DiagnosticTracker",
    "EventHub",
    "JsonlSink",
    "RunTitle",
    "console_sink",
    "cut_back",
    "print_summary",
    "read_jsonl",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
