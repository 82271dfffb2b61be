# Each target sets up what it needs; nothing else has to be done by hand.
PYTHON ?= python3
BIN := .venv/bin
WORKSPACE ?= workspace
DOMAIN := recipes/georgia_workers_comp

.PHONY: setup chromium quickstart test lint models bench lock clean

setup:
	@PYTHON=$(PYTHON) scripts/setup.sh

chromium:
	@scripts/chromium.sh

quickstart: setup
	@$(BIN)/factory run $(DOMAIN) --profile tiny --workspace $(WORKSPACE)

# Two files at a time, and then the whole real loop, which needs both cores.
test: setup chromium lint
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "not loop"
	@$(BIN)/python -m pytest -m loop

lint: setup
	@$(BIN)/ruff format --check . && $(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python -m tiny.build_domain --check
	@$(BIN)/python -m tiny.build_park --check
	@$(BIN)/python -m tiny.build_beekeeping --check
	@$(BIN)/python -m tiny.build_sql_domain --check
	@$(BIN)/python -m tiny.smart_home --check

# Trains the tiny models anew, from nothing, into tiny/models.
models: setup
	@$(BIN)/python -m tiny.make

bench: setup
	@$(BIN)/python benchmarks/loop.py

# Resolves the newest versions that pyproject.toml admits and writes them down; only for maintainers.
lock: setup
	@$(BIN)/python -m pip install -q uv
	@$(BIN)/python scripts/lock.py

clean:
	@rm -rf $(WORKSPACE)
