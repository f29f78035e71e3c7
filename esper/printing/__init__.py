"""All that esper prints goes through here: nothing it quotes can steer a terminal, and no output that fails ends it."""

from esper.printing.lines import BAD_INPUT, complain, in_short, logger, printable, say, say_text, say_traceback
from esper.printing.streams import Output, guarded, output

__all__ = [
    "BAD_INPUT",
    "Output",
    "complain",
    "guarded",
    "in_short",
    "logger",
    "output",
    "printable",
    "say",
    "say_text",
    "say_traceback",
]
