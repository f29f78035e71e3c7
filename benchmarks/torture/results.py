"""What was tried, what survived: counts that add up over calls, and their table in docs/reliability.md."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from esper.files import write_atomic

RESULTS = Path(__file__).with_name("results.json")
PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- torture: begin -->\n", "<!-- torture: end -->\n"


@dataclass(slots=True)
class Tally:
    """Of one kind of trial and one seed."""

    kind: str
    seed: int
    tried: int = 0
    lost: int = 0
    tracebacks: int = 0
    stories: list[str] = field(default_factory=list)
    trial: str = ""  # kind, seed and number of the one under way

    def ended(self, story: str, lost: str | None, times: int = 1) -> None:
        """A trial is over, in which something was done so many times; lost: what is not as it should be."""
        self.tried += times
        if lost:
            self.lost += 1
            self.stories.append(f"LOST {self.trial}: {story}: {lost}")

    def traceback(self, story: str, said: str) -> None:
        """A user would have seen a traceback."""
        self.tracebacks += 1
        self.stories.append(f"TRACEBACK {self.trial}: {story}\n{said[-1500:]}")


def add(tally: Tally) -> None:
    """Add counts to the results (those of the same kind and seed are replaced), and write the table anew."""
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    counts = {"tried": tally.tried, "lost": tally.lost, "tracebacks": tally.tracebacks}
    known.setdefault(tally.kind, {})[str(tally.seed)] = counts
    write_atomic(RESULTS, json.dumps(known, indent=1).encode() + b"\n")
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    write_atomic(PAGE, f"{before}{BEGIN}{table(known)}{END}{after}".encode())


def table(known: dict[str, dict[str, dict[str, int]]]) -> str:
    """Markdown: a line for each kind."""
    lines = ["| what was done | times | survived | lost | tracebacks |", "|---|---:|---:|---:|---:|"]
    for kind, seeds in known.items():
        tried, lost, tracebacks = (sum(one[name] for one in seeds.values()) for name in ("tried", "lost", "tracebacks"))
        lines.append(f"| {kind} | {tried:,} | {tried - lost:,} | {lost:,} | {tracebacks:,} |")
    return "\n".join(lines) + "\n"
