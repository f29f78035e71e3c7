"""The diabetes study that comes with scikit-learn: a regression for which nothing is downloaded."""

import numpy as np

from esper.tasks.bundled import read_bundled
from esper.tasks.data import Data
from esper.tasks.settings import TASKS, DiabetesConfig

COUNT, FEATURES = 442, 10


@TASKS.register("diabetes", DiabetesConfig)
def build_diabetes(settings: DiabetesConfig) -> Data:
    """Ten measurements of each patient [N, 10], and how far the disease has gone a year later [N], from 25 to 346.

    Source: Efron et al. 2004, "Least angle regression".
    """
    measurements = read_bundled(settings.name, "diabetes_data_raw.csv.gz", (COUNT, FEATURES), np.float64, None)
    progression = read_bundled(settings.name, "diabetes_target.csv.gz", (COUNT,), np.float64)
    return Data(train=(measurements, progression), loss=settings.loss, layout="nf")
