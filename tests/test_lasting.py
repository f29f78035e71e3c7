"""Garbage among what was imported."""

import subprocess
import sys

CODE = """
import gc
from esper.lasting import lasting

class Ring:
    def __init__(self):
        self.own = self

looked = []
gc.callbacks.append(lambda phase, info: looked.append(info["generation"]))
assert gc.get_freeze_count() == 0
try:
    with lasting():
        kept = [Ring() for _ in range(10_000)]
        assert not gc.isenabled()
        raise ImportError
except ImportError:
    pass
assert not looked
lasts = gc.get_freeze_count()
assert gc.isenabled() and lasts >= 10_000
with lasting():  # a job later in the same process: what it leaves behind must go
    assert gc.isenabled()
    Ring()
assert gc.get_freeze_count() == lasts
assert gc.collect() >= 1
"""


def test_what_is_imported_first_is_never_looked_at_and_what_comes_later_is():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
