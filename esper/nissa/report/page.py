"""Pages of one file that work offline: one look for all of them."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.files import write_atomic
from esper.nissa.formatting import compact, signed, with_minus
from esper.nissa.palette import THEME

if TYPE_CHECKING:
    from jinja2 import Environment


def render_page(template: str, **values: Any) -> str:
    """A page as text. template: its path below the package `esper`; it extends nissa/report/page.html.j2.

    Everything that comes from a run is escaped.
    """
    page = _environment().get_template(template).render(theme=THEME, **values)
    return page.encode(errors="backslashreplace").decode()  # paths in another encoding hold lone surrogates


def write_page(path: Path, page: str) -> None:
    """Write it so that a reader meets the old page or the new, never some of it. Raises CheckpointError."""
    write_atomic(path, page.encode())


@cache
def _environment() -> "Environment":
    """Where templates are found; it keeps them compiled."""
    from jinja2 import Environment, PackageLoader

    loader = PackageLoader("esper", "")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"compact": compact, "signed": _signed, "minus": with_minus}
    return environment


def _signed(value: float, decimals: int = 1) -> str:
    return with_minus(signed(value, decimals))
