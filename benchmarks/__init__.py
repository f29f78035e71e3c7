"""Measurements that anyone can run: `python -m benchmarks.NAME`."""

import esper  # noqa: F401 - before torch is loaded: it says how torch's threads wait
