"""All that esper prints goes through here: nothing it quotes can steer a terminal, and no output that fails ends it."""

from esper.printing.lines import (
    complain,
    error_text,
    in_short,
    logger,
    printable,
    say,
    say_part,
    say_text,
    say_traceback,
)
from esper.printing.streams import Output, guarded, output

__all__ = [
    "Output",
    "complain",
    "error_text",
    "guarded",
    "in_short",
    "logger",
    "output",
    "printable",
    "say",
    "say_part",
    "say_text",
    "say_traceback",
]
