# `make demo` predicts on a real example; `make test` runs every check. Both set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORE := $(VENV)/.core
STAMP := $(VENV)/.ready

WORKFLOWS := $(VENV)/workflows/bin

.PHONY: demo test check tests lint-workflows soak-short soak fuzz clean

demo: $(CORE)
	$(BIN)/virnucpro predict examples/demo.fa -o demo_predictions --force
	@cut -f1,2,5,6,7 demo_predictions/calls.tsv

test: check tests

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Tests of killed and hung processes need their share of the cores: one that fails beside others
# is tried again alone, and then it counts.
tests: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile || \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --last-failed --last-failed-no-failures none

# The Galaxy wrapper and the nf-core module, by the linters of their communities, which need the
# network: planemo for its schema, nf-core for its modules.
lint-workflows:
	test -x $(WORKFLOWS)/planemo || $(PYTHON) -m venv $(VENV)/workflows
	$(WORKFLOWS)/python -m pip install --quiet planemo nf-core
	$(WORKFLOWS)/planemo lint --fail_level error recipes/galaxy/virnucpro.xml
	cd recipes/nextflow && $(CURDIR)/$(WORKFLOWS)/nf-core modules lint --dir . --local virnucpro/predict

# Kill real runs at random moments and resume them to the same bytes.
soak-short: $(STAMP)
	$(BIN)/python tests/reliability/soak.py --kills 200

soak: $(STAMP)
	$(BIN)/python tests/reliability/soak.py --kills 1000 --output benchmarks/results/soak.json

# Feed every reader of files from outside with files that a fuzzer makes up; see that a record is
# called alone as among others, with scores made up and with the bundled model.
fuzz: $(STAMP)
	$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install --quiet atheris
	$(BIN)/python fuzz/run.py --cases 1000000 --output benchmarks/results/fuzz.json
	$(BIN)/python fuzz/alone.py --records 100000 --stub --output benchmarks/results/alone_stub.json
	$(BIN)/python fuzz/alone.py --records 2000 --output benchmarks/results/alone_mini.json

# What predicts with the bundled model on a CPU, and no more.
$(CORE): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $(CORE)

$(STAMP): $(CORE)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[all]' --group dev
	touch $(STAMP)

clean:
	rm -rf $(VENV) demo_predictions
