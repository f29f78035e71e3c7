"""Esper grows neural networks while they train."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esper.kasmina.graft import grow

__version__ = "0.1.0"
__all__ = ["__version__", "grow"]


def __getattr__(name: str) -> Any:  # `import esper` stays light
    if name == "grow":
        from esper.kasmina.graft import grow

        return grow
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
