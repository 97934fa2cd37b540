# Limen: `make demo` shows it at work, `make test` proves it. Both set .venv up first.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.limen-installed

.PHONY: trial setup install upgrade uninstall demo test cases faults soak check conformance format lock schema train eval fuzz bench-receive
.DEFAULT_GOAL := help

help:
	@echo "make setup   create .venv with every pinned dependency"
	@echo "make demo    the whole system on this machine, fed with synthetic head CT"
	@echo "make test    the whole test suite; WORKERS=2: in two processes"
	@echo "make install, upgrade, uninstall   as services of this systemd host (root); ARGS=--dry-run"
	@echo "make trial   boot a host of its own (root, systemd-nspawn), install Limen there, send a study"
	@echo "make check   ruff, mypy --strict, import-linter, codespell"
	@echo "make format  ruff format and import order"
	@echo "make conformance  write docs/conformance.md"
	@echo "make schema  write the JSON Schema of the result document"
	@echo "make train   train the default bundle (reads ../shared/data/headct_real)"
	@echo "make eval    evaluate it: models/ich/EVALUATION.md"
	@echo "make cases   studies that bleed, damaged in 2,000 ways: never negative"
	@echo "make faults  what is killed, cut off or full loses nothing: ROUNDS=100 power cuts"
	@echo "make soak    an hour of mixed load and faults: SOAK_S=3600"
	@echo "make fuzz    the receiver under atheris: RUNS=1000000 in ten ways, then over its socket"
	@echo "make bench-receive  receiving, against DCMTK, Orthanc and pynetdicom"
	@echo "make lock    renew the lock files (needs uv)"

setup: $(STAMP)

$(STAMP): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Limen needs Python 3.11 or newer; $$($(PYTHON) --version) is too old. Set PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
	  || { echo "This Python cannot make a virtual environment. On Debian/Ubuntu: apt-get install python3-venv"; exit 2; }
	$(PYTHON) -m venv .venv
	@echo "installing pinned dependencies (a few minutes the first time) ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup
	$(BIN)/limen demo

# With the Python of the host: nothing needs to be set up first.
install upgrade uninstall:
	@$(PYTHON) -m limen.command.install $@ $(ARGS)

# In one process. WORKERS=2 takes half as long; tests with timers of their own may then be late.
# Whole files go to each: what a file has started once serves all of its tests.
WORKERS ?= 0
test: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

trial: setup
	TRIAL=1 $(BIN)/python -m pytest tests/deploy/test_host.py

cases: setup
	CASES=2000 $(BIN)/python -m pytest tests/cases --timeout 1800

ROUNDS ?= 100
faults: setup
	DEEP=1 ROUNDS=$(ROUNDS) LIMEN_FAULTS_REPORT=.venv/faults.json $(BIN)/python -m pytest tests/faults
	@cat .venv/faults.json

SOAK_S ?= 3600
soak: setup
	SOAK_S=$(SOAK_S) LIMEN_FAULTS_REPORT=.venv/soak.json $(BIN)/python -m pytest -s tests/faults/test_soak.py
	@cat .venv/soak.json

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix --select I .

schema: setup
	$(BIN)/python -m limen.result > docs/result.schema.json
	cp docs/result.schema.json web/results/result.schema.json

conformance: setup
	$(BIN)/limen conformance --config config.toml -o docs/conformance.md

train eval: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
	  -r requirements-train.lock
	$(BIN)/python -m models.ich.$(if $(filter eval,$@),evaluate,train)

# libFuzzer stays out of .venv: no other target needs it.
RUNS ?= 1000000
FUZZ := .venv-fuzz
fuzz: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
	  --upgrade --target $(FUZZ)/packages -r requirements-fuzz.lock
	PYTHONPATH=$(FUZZ)/packages $(BIN)/python -m tests.fuzz.run $(FUZZ)/corpus --runs $(RUNS)
	PYTHONPATH=$(FUZZ)/packages $(BIN)/python -m tests.fuzz.run $(FUZZ)/corpus --runs 20000 --socket

bench-receive: setup
	$(BIN)/python -m bench.receive --json

# What runs, as a whole and for each image; what tests and checks need besides. All of the same versions.
PIN := uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --no-annotate --quiet --custom-compile-command "make lock" pyproject.toml
lock:
	$(PIN) --extra scp --extra worker --extra openvino --extra web --extra dev -o requirements-dev.lock
	$(PIN) --extra scp --extra worker --extra openvino --extra web -c requirements-dev.lock -o requirements.lock
	$(PIN) --extra scp -c requirements.lock -o deploy/locks/scp.lock
	$(PIN) --extra scp --extra worker --extra openvino -c requirements.lock -o deploy/locks/worker.lock
	$(PIN) --extra web -c requirements.lock -o deploy/locks/web.lock
