# Limen: `make demo` shows it at work, `make test` proves it. Both set .venv up first.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.limen-installed

.PHONY: setup demo test check format lock schema train eval fuzz bench-receive
.DEFAULT_GOAL := help

help:
	@echo "make setup   create .venv with every pinned dependency"
	@echo "make demo    the whole system on this machine, fed with synthetic head CT"
	@echo "make test    the whole test suite"
	@echo "make check   ruff, mypy --strict, import-linter, codespell"
	@echo "make format  ruff format and import order"
	@echo "make schema  write the JSON Schema of the result document"
	@echo "make train   train the default bundle on synthetic head CT (fetches the train extra)"
	@echo "make eval    evaluate it: models/ich/EVALUATION.md"
	@echo "make fuzz    the receiver under atheris: RUNS=1000000 in ten ways, then over its socket"
	@echo "make bench-receive  receiving, against DCMTK, Orthanc and pynetdicom"
	@echo "make lock    renew requirements.lock (needs uv)"

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Limen needs Python 3.11 or newer; $$($(PYTHON) --version) is too old. Set PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
	  || { echo "This Python cannot make a virtual environment. On Debian/Ubuntu: apt-get install python3-venv"; exit 2; }
	$(PYTHON) -m venv .venv
	@echo "installing pinned dependencies (a few minutes the first time) ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup
	$(BIN)/limen demo

test: setup
	$(BIN)/python -m pytest

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

lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-annotate --extra scp --extra worker --extra openvino --extra web --extra dev --quiet \
	  --custom-compile-command "make lock" pyproject.toml -o requirements.lock
