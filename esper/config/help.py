"""The text of `python -m esper.run --help`, read off conf/ without composing anything."""

import re
import textwrap

from esper.config.options import conf_dir, groups
from esper.config.plugins import own_options

WIDTH = 42  # of a group's options
FRAME = """\
Grow neural networks while they train.

  python -m esper.run [group=option ...] [key=value ...]    one run
  python -m esper.run -m [key=value,value ...]              one run for each combination; again: what is missing
  python -m esper.run resume=RUN_DIR                        continue a run that was stopped

Groups (* is the default; conf/GROUP/OPTION.yaml explains every key, set as in engine.members=16):
{groups}

Keys:
{keys}

Flags:
  -m, --multirun           sweep over values separated by commas (docs/sweeps.md), with, where wanted:
    zip=[KEY,KEY]            values of these keys in pairs instead of in all combinations
    rerun=failed             run again what failed; all: everything (earlier attempts are kept)
    hydra/launcher=local     several jobs at once, in processes of their own
    --dry-run                list the jobs and run none
  -c job, --cfg job        print the composed configuration instead of running; --resolve fills in references
  -cd DIR, --config-dir    a further folder of groups and options
  -h, --help               this text; --hydra-help has all that Hydra offers

Examples:
  python -m esper.run slots=early_late gates=strict seed=3
  python -m esper.run policy=scheduled engine.members=16 epochs=40
  python -m esper.run -m seed=0,1,2 policy=heuristic,random
"""


def help_text() -> str:
    """Groups with their options, root keys with their defaults, flags and examples."""
    root = (conf_dir() / "config.yaml").read_text(encoding="utf-8")
    defaults = {name: (option, says) for name, option, says in re.findall(r"^  - (\w+): (\w+) # (.+)$", root, re.M)}
    lines = []
    for group, options in groups().items():
        default, says = defaults.get(group, ("", ""))
        listed = ", ".join(f"{option}*" if option == default else option for option in options)
        first, *rest = textwrap.wrap(listed, WIDTH)
        lines.append(f"  {group:<11} {first:<{WIDTH}} {says}".rstrip())
        lines += [f"  {'':<11} {more}" for more in rest]
    keys = re.findall(r"^# (.+)\n(\w+): (.+)$", root, re.M)
    if own := sorted(own_options()):
        text = f"  of plugins: {', '.join(own)}"
        lines += ["", *textwrap.wrap(text, 120, subsequent_indent=" " * 14, break_long_words=False)]
    return FRAME.format(
        groups="\n".join(lines), keys="\n".join(f"  {f'{key}={value}':<35} {says}" for says, key, value in keys)
    )
