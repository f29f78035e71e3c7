#!/usr/bin/env bash
# The kernels' tests with the kernels built for AddressSanitizer and UndefinedBehaviorSanitizer, which end the run at the
# first access outside a tensor and at the first operation without a meaning. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export XDG_CACHE_HOME=$folder
export CXX="${CXX:-g++} -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all"
# The runtime comes first, so that it sees torch's allocations; Python's own are never all freed. The C++ library comes
# with it: the runtime looks for it at the start.
libraries=$(for name in libasan.so libstdc++.so; do $CXX -print-file-name=$name; done | tr '\n' ' ')
options=detect_leaks=0:abort_on_error=1

run() { LD_PRELOAD=$libraries ASAN_OPTIONS=$options UBSAN_OPTIONS=print_stacktrace=1 PYTHONPATH=$PWD "$@"; }

python=${PYTHON:-.venv/bin/python}
for module in native ternary; do
  run "$python" -c "from esper.engine.kernels import $module; library, reason = $module.load(); assert library, reason"
done
run "$python" -m pytest -p no:cacheprovider --capture=sys -q "$@" tests/engine/kernels/test_block.py \
  tests/engine/kernels/test_layer_norm.py \
  tests/engine/fusion/test_seed_ops.py tests/engine/kernels/test_ternary.py tests/engine/kernels/test_ternary_decoder.py
