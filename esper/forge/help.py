"""The text of `python -m esper.forge --help`, read off conf/ without composing anything."""

import re
import textwrap

from esper.config.options import conf_dir, groups
from esper.forge.composing import PROGRAM
from esper.forge.config import PLACES

WIDTH = 120
FRAME = """\
Make a language model in phases, from text to a packed model.

  python -m esper.forge [size=SIZE] [key=value ...]         all phases, in order
  python -m esper.forge phase=bitnet input=RUN_DIR          one phase, on what an earlier run has left
  python -m esper.forge -m phase=bitnet bitnet.distill=0,1 input=RUN_DIR    one run for each combination
  python -m esper.forge resume=RUN_DIR [key=value ...]      go on; phases that a changed value concerns run anew

Phases: {phases} (docs/forge.md)

Groups (conf/forge/GROUP/OPTION.yaml explains their keys; a size sets each phase's budget and gates):
{groups}

Keys (each phase's own are PHASE.KEY, in conf/forge.yaml):
{keys}

Flags: -m (sweep), -c job (print the configuration), -h
"""


def help_text() -> str:
    """Phases, groups with their options, root keys with their defaults."""
    root = (conf_dir() / f"{PROGRAM}.yaml").read_text(encoding="utf-8")
    defaults = {name: (option, says) for name, option, says in re.findall(r"^  - (\w+): (\w+) # (.+)$", root, re.M)}
    listed = []
    for group, options in groups(PROGRAM).items():
        default, says = defaults.get(group, ("", ""))
        listed.append(f"  {group:<11} {', '.join(f'{o}*' if o == default else o for o in options):<42} {says}".rstrip())
    keys = [
        textwrap.fill(f"  {f'{key}={value}':<55}  {says}", WIDTH, subsequent_indent=" " * 59)
        for says, key, value in re.findall(r"^# (.+)\n(\w+): (.+)$", root, re.M)
    ]
    return FRAME.format(phases=", ".join(PLACES), groups="\n".join(listed), keys="\n".join(keys))
