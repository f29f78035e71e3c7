import os

import pytest
import torch

os.environ["WANDB_MODE"] = "offline"  # a developer's login is not for tests


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small tensors gain nothing from threads, and a busy machine makes them wait for each other."""
    torch.set_num_threads(1)
