"""docs/forge.md: the template's text, with tables of what runs of the forge came to."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from esper.forge.continuity import aspects_of
from esper.forge.phase import Gate
from esper.forge.records import PhaseRecord, read_phases
from esper.nissa.formatting import clock, with_minus
from esper.nissa.statistics import mean_interval

PAGE = Path("docs/forge.md")
TEMPLATE = Path(__file__).with_name("forge_template.md")
Table = Callable[[Sequence[Path], Mapping[str, Any]], str]


def write_page(folders: Sequence[Path], controls: str, speeds: Mapping[str, Any]) -> None:
    """Fill the template: `<!-- table NAME -->` becomes what was measured."""
    command = f"`python -m benchmarks.forge --seeds {len(folders)} --controls {controls}`"
    text = TEMPLATE.read_text().replace("<!-- command -->", command)
    PAGE.write_text(re.sub(r"<!-- table (\w+) -->", lambda found: TABLES[found[1]](folders, speeds), text))


def _records(folders: Sequence[Path]) -> list[list[PhaseRecord]]:
    return [read_phases(folder) for folder in folders]


def _metrics(folders: Sequence[Path], phase: str) -> list[Mapping[str, float]]:
    found = [record for records in _records(folders) for record in records if record.phase == phase]
    return [record.result.metrics for record in found if record.result is not None]


def _over_seeds(metrics: Sequence[Mapping[str, float]], name: str, digits: int = 3) -> str:
    """The mean of a figure over runs, with its interval from three runs on; a dash where none has it."""
    values = [each[name] for each in metrics if name in each]
    if len(values) < 2:
        return with_minus(f"{values[0]:.{digits}f}") if values else "-"
    return with_minus(mean_interval(values).text(digits))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def continuity(folders: Sequence[Path], speeds: Mapping[str, Any]) -> str:
    """The continuity table of the first run."""
    records = read_phases(folders[0])
    aspects = aspects_of(record.continuity or {} for record in records)
    rows = [
        [record.phase, record.status, *(a.text((record.continuity or {}).get(a.name)) for a in aspects)]
        for record in records
    ]
    return _table(["phase", "", *(aspect.title for aspect in aspects)], rows)


def durations(folders: Sequence[Path], speeds: Mapping[str, Any]) -> str:
    """Wall time of each phase."""
    rows = []
    for record in read_phases(folders[0]):
        rows.append([record.phase, clock(record.result.duration_s) if record.result else "-"])
    run = json.loads((folders[0] / "run.json").read_text())
    return _table(["phase", "time"], [*rows, ["all", clock(run["wall_s"])]])


def cognate(folders: Sequence[Path], speeds: Mapping[str, Any]) -> str:
    """Model by domain, beside counting."""
    metrics = _metrics(folders, "cognate")
    domains = sorted(name.partition("/")[0] for name in metrics[0] if name.endswith("/ngram_bits_per_byte"))
    rows = [
        [model, *(_over_seeds(metrics, f"{model}/{domain}/bits_per_byte") for domain in domains)]
        for model in ("trunk", *domains)
    ]
    counted = ["n-gram", *(_over_seeds(metrics, f"{domain}/ngram_bits_per_byte") for domain in domains)]
    return _table(["bits a byte", *domains], [*rows, counted])


def evomerge(folders: Sequence[Path], speeds: Mapping[str, Any]) -> str:
    """Every merge on test text."""
    metrics = _metrics(folders, "evomerge")
    names = [name.removesuffix("/bits_per_byte") for name in metrics[0] if re.fullmatch(r"\w+/bits_per_byte", name)]
    median = ["cma_es/median_bits_per_byte", "genetic/median_bits_per_byte", "random/median_bits_per_byte"]
    rows = [[name, _over_seeds(metrics, f"{name}/bits_per_byte", 4)] for name in names]
    rows += [[name.replace("/median_bits_per_byte", ", median"), _over_seeds(metrics, name, 4)] for name in median]
    return _table(["merge", "bits a byte"], [row for row in rows if row[1] != "-"])


def gates(folders: Sequence[Path], speeds: Mapping[str, Any]) -> str:
    """What each phase's gates came to, and what they asked."""
    rows = [
        [record.phase, gate.metric, _over_seeds(_metrics(folders, record.phase), gate.metric, 4), _asked(gate)]
        for record in read_phases(folders[0])
        if record.result is not None
        for gate in record.result.gates
    ]
    return _table(["phase", "figure", "measured", "asked"], rows)


def _asked(gate: Gate) -> str:
    return f"{gate.bound.replace('_', ' ')} {with_minus(f'{gate.value:g}')}"


def _of_speed(name: str) -> Table:
    def table(folders: Sequence[Path], speeds: Mapping[str, Any]) -> str:
        rows = speeds.get(name) or []
        if not rows:
            return "not measured"
        return _table(list(rows[0]), [[_spelled(value) for value in row.values()] for row in rows])

    return table


def _spelled(value: Any) -> str:
    if isinstance(value, int) or (isinstance(value, float) and abs(value) >= 1000):
        return f"{value:,.0f}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


TABLES: dict[str, Table] = {
    "continuity": continuity,
    "durations": durations,
    "cognate": cognate,
    "evomerge": evomerge,
    "gates": gates,
    **{name: _of_speed(name) for name in ("specialists", "generation", "packed", "loading")},
}
