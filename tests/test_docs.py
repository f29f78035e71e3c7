"""Code that the pages show runs as it stands."""

import re
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("page", ["bring-your-own.md"])
def test_the_example_of_a_page_runs(page):
    torch.manual_seed(0)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), flags=re.S)
    space: dict = {}
    exec(compile("\n".join(blocks), page, "exec"), space)
    assert space["models"][0].slots["mid"].alpha == 1.0
    assert torch.isfinite(space["scores"].loss).all()
