"""Imports that last as long as the process: garbage is not looked for among them."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def lasting() -> Iterator[None]:
    """Inside, for the first time in a process, no garbage is looked for, and later never among what is there then.

    Torch alone is 160,000 objects, all of which stay, and each look at them takes a tenth of a second.
    """
    if gc.get_freeze_count() or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
