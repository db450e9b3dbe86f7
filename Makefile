# The two commands of the README, and those of a contributor. Each does its own set-up.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OFFLINE ?=

export TOKENIZERS_PARALLELISM = false

.PHONY: demo test test-slow test-foreign lint bench clean

# torch first: another package that asks for it would take a build with several GB of GPU libraries
$(STAMP): constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch -c constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@

demo: $(STAMP)  ## fine-tune a real encoder on real headlines, test it; take digits to the edge of stability
	$(BIN)/lit-ft fit -c configs/demo.yaml
	$(BIN)/lit-ft test -c configs/demo.yaml --ckpt_path last
	$(BIN)/lit-ft fit -c configs/flatness/edge_of_stability_gd.yaml
	$(BIN)/lit-ft report runs/demo runs/edge_of_stability_gd

test: $(STAMP)  ## everything but what is marked slow, in two processes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist worksteal $(if $(OFFLINE),--offline)

test-slow: $(STAMP)  ## learning tests on real models
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

# Projects of other people, each of which asks for much: an environment of their own. lightly asks for torchvision, which
# is not beside this torch; what is tested of it does without.
FOREIGN ?= .venv-foreign
PROJECTS := pytorch-forecasting chemprop torch-geometric scvi-tools gluonts neuralforecast darts pytorch-lightning torchdata
$(FOREIGN)/.installed: tests/foreign/constraints.txt
	$(PYTHON) -m venv $(FOREIGN)
	$(FOREIGN)/bin/python -m pip install --quiet --disable-pip-version-check torch -c tests/foreign/constraints.txt
	$(FOREIGN)/bin/python -m pip install --quiet --disable-pip-version-check -e . pytest $(PROJECTS) \
		-c tests/foreign/constraints.txt
	$(FOREIGN)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps lightly lightly-utils \
		-c tests/foreign/constraints.txt
	@touch $@

test-foreign: $(FOREIGN)/.installed  ## callbacks in projects from the package index (3 GB, once)
	OMP_NUM_THREADS=1 $(FOREIGN)/bin/python -m pytest tests/foreign

lint: $(STAMP)  ## style and types
	$(BIN)/ruff check lit_ft tests benchmarks
	$(BIN)/ruff format --check lit_ft tests benchmarks
	$(BIN)/mypy

bench: $(STAMP)  ## speed as ratios in one run, against what is installed beside us
	for script in benchmarks/*.py; do OMP_NUM_THREADS=1 $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) build *.egg-info
