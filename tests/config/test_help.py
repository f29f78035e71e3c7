"""The help text, read off conf/."""

import re
from dataclasses import fields

from esper.config.help import help_text
from esper.config.options import groups
from esper.config.root import RunConfig


def test_help_lists_every_group_option_and_root_key():
    text = help_text()
    for group, options in groups().items():
        row = re.search(rf"^  {group} .+\n(?: {{14}}.+\n)*", text, re.MULTILINE)[0]
        assert all(re.search(rf"\b{option}\b", row) for option in options)
    starts = {
        line.index(says) for line in text.splitlines() for says in ("the data", "who decides") if line.endswith(says)
    }
    assert len(starts) == 1  # what a group decides is a column of its own
    for field in fields(RunConfig):
        assert re.search(rf"^  {field.name}\b", text, re.MULTILINE), field.name
    assert max(map(len, text.splitlines())) <= 120
