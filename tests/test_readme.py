"""The pages a newcomer reads name what there is."""

import re
from pathlib import Path

from esper.config.options import groups

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_table_of_groups_lists_every_option():
    rows = {row[0]: row[1] for row in re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|$", README, re.MULTILINE)}
    assert rows.keys() == groups().keys()
    for group, options in groups().items():
        assert sorted(re.findall(r"`(\w+)`", rows[group])) == options


def test_every_package_is_in_the_table_of_packages():
    packages = {path.parent.name for path in (ROOT / "esper").glob("*/__init__.py")}
    assert packages <= set(re.findall(r"`esper\.(\w+)`", README))


def test_every_page_that_is_linked_is_there():
    for page in [ROOT / "README.md", *ROOT.glob("docs/*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_every_make_target_of_the_readme_is_there():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make (\w+)", README)) <= targets
