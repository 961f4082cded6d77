#!/usr/bin/env bash
# Makes the virtual environment of the workspace: setup_venv.sh VENV MEMBER... -- TOOL...
# torch comes first and alone, so that no open range can pull gigabytes of another build.
set -euo pipefail
venv=$1; shift
members=(); while [ "$1" != "--" ]; do members+=(-e "$1"); shift; done; shift
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet)
"${pip[@]}" install "setuptools>=77" wheel "uv_build>=0.9,<0.10"
if ! "$venv/bin/python" -c 'import torch' 2>/dev/null; then
    index=()
    cpu=https://download.pytorch.org/whl/cpu
    # Without an NVIDIA driver the CPU build is enough; an unreachable extra index would cost pip minutes.
    if ! command -v nvidia-smi >/dev/null && \
        "$venv/bin/python" -c "import urllib.request as u; u.urlopen('$cpu/torch/', timeout=3)" 2>/dev/null; then
        index=(--extra-index-url "$cpu")
    fi
    "${pip[@]}" install "${index[@]}" "torch==2.13.0" numpy
fi
# The compiler of CUDA sources needs no card; with it the tests compile every kernel for every architecture.
"${pip[@]}" install "cuda-core>=1.2,<2" "cuda-bindings>=13.0.3,<14" "nvidia-cuda-nvrtc==13.0.88"
PATH="$PWD/$venv/bin:$PATH" "${pip[@]}" install --no-build-isolation -e . "${members[@]}" "$@"
