#!/bin/sh
# Install the PyTorch build that fits this machine: sh install-torch.sh PATH/TO/python
#
# With an NVIDIA driver: PyPI's own build, which brings CUDA. Without: the CPU build "2.13.0+cpu", a tenth of the size,
# where pip can find one (PyTorch's CPU index, a mirror or a folder of wheels in pip's configuration or PIP_EXTRA_INDEX_URL),
# else through uv, which knows PyTorch's index itself. Where only PyPI can be reached, its build serves: it runs on a CPU too.
set -e
python=$1
version=$(sed -n 's/^torch==//p' "$(dirname "$0")/constraints.txt")
pip="$python -m pip install --quiet --disable-pip-version-check"

if "$python" -c "import torch; raise SystemExit(torch.__version__.split('+')[0] != '$version')" 2>/dev/null; then
    exit 0
fi
if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi >/dev/null 2>&1; then
    echo "NVIDIA GPU found: installing PyTorch $version with CUDA."
    exec $pip "torch==$version"
fi
echo "No NVIDIA GPU found: installing the CPU build of PyTorch $version."
$pip "torch==$version+cpu" 2>/dev/null && exit 0
if $pip uv 2>/dev/null && "$python" -m uv pip install --quiet --python "$python" --torch-backend cpu "torch==$version" 2>/dev/null; then
    exit 0
fi
echo "No CPU build in reach; installing PyPI's build, which runs on a CPU too but is larger."
exec $pip "torch==$version"
