"""Side-by-side measurements: `python -m benchmarks.<name>` prints a table; `--json FILE` writes its rows."""
