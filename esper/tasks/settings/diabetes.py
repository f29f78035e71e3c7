"""The diabetes study."""

from dataclasses import dataclass
from typing import ClassVar

from esper.checks import one_of
from esper.leyline.score import HUBER, MSE
from esper.tasks.settings.own import OwnDataConfig


@dataclass(kw_only=True)
class DiabetesConfig(OwnDataConfig):
    """scikit-learn's 442 patients, ten measurements each, bundled with the library.

    loss: "mse" or "huber".
    """

    inputs: ClassVar[str] = "vectors"

    name: str = "diabetes"
    loss: str = MSE

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("task.loss", self.loss, (MSE, HUBER))
