#!/usr/bin/env bash
# Everything that is claimed of a GPU, in ten minutes at most, with nothing to prepare: see benchmarks/gpu.py.
#
#   benchmarks/gpu.sh              # 118,287 photos made on the spot; wants a GPU, 40 GB of disk, 32 GB of memory
#   benchmarks/gpu.sh --dry        # the same program on a few dozen small photos on the processor: does it run at all?
#   VENV=DIR benchmarks/gpu.sh     # another virtual environment than .venv
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
[ -x "$venv/bin/python" ] || make install VENV="$venv"
exec timeout 600 "$venv/bin/python" benchmarks/gpu.py "$@"
