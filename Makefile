# make demo   installs what is needed into .venv and runs the main job
# make test   installs what is needed into .venv and runs all checks and tests

PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin

.PHONY: demo test lint install clean

demo: $(VENV)/.installed
	$(BIN)/llmrec run eval/demo.yaml

test: lint $(VENV)/.vllm
	$(BIN)/pytest

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(VENV)/.installed

# PyTorch first: a CPU machine is to get the CPU build, before any other package asks for a CUDA one.
$(VENV)/.installed: pyproject.toml constraints.txt install-torch.sh
	$(PYTHON) -m venv $(VENV)
	sh install-torch.sh $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

# vLLM has no macOS build in the index: there its tests are skipped and say so.
$(VENV)/.vllm: $(VENV)/.installed install-vllm.sh
	if [ "$$(uname)" = Linux ]; then sh install-vllm.sh $(BIN)/python; fi
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
