"""What a learned controller sees."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from esper.leyline import ActionLayout, EpochReport
from esper.tamiyo.masks import legal_actions


def action_masks(reports: Sequence[EpochReport], layout: ActionLayout) -> NDArray[np.bool_]:
    """Which actions are legal for each member [M, A]; waiting always is."""
    masks = np.zeros((len(reports), len(layout)), dtype=np.bool_)
    for mask, report in zip(masks, reports, strict=True):
        mask[[layout.number(action) for action in legal_actions(report, layout.blueprints, layout.blends)]] = True
    return masks
