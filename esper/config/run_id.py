"""Names of runs."""

import secrets
from datetime import datetime


def new_run_id() -> str:
    """Sorts by start time; the random half keeps a hundred runs of the same second apart."""
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{secrets.token_hex(4)}"
