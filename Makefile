# make demo   the whole line against simulators, live in this terminal; SLOTS=16 for so many slots side by side
# make test   the whole suite
# make check  exactly what CI runs
# make install  the station alone into .venv, for a machine on the line
SHELL := /bin/bash
BIN := .venv/bin
SLOTS := 1
# Twice as many as there are cores: half of the suite waits, for boards, polls and processes.
WORKERS := $(shell echo $$(( $$(nproc) * 2 )))
# Tests write under /tmp, where a Unix socket's path is short, and leave nothing there.
PYTEST := room=$$(mktemp -d) && trap 'rm -rf "$$room"' EXIT && PYTEST_DEBUG_TEMPROOT=$$room $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

.PHONY: install demo test check lint format bench soak docs lock clean setup-sim setup-dev

install:
	@.ci/setup run

demo: setup-sim
	@$(BIN)/station demo .demo --slots $(SLOTS)

test: setup-dev
	$(PYTEST)

check: setup-dev lint
	$(PYTEST) --cov --cov-report=term

lint: setup-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m station.config --check

format: setup-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# A thousand events in four slots, at random (half a minute on an idle machine; the suite has two hundred).
soak: setup-dev
	STATION_SOAK=1 $(BIN)/python -m pytest -q tests/test_slots_machine.py --timeout 600

bench: setup-dev
	$(BIN)/python tests/bench.py
	$(BIN)/python tests/bench_ledger.py
	$(BIN)/python tests/bench_jig.py
	$(BIN)/python tests/bench_report.py
	$(BIN)/python tests/bench_families.py
	$(BIN)/python tests/bench_slots.py

docs: setup-dev
	$(BIN)/python -m station.config

# Resolves anew; review the diff. The lock for tests rules the versions of the other two.
lock: setup-dev
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --upgrade --extra install --extra sim --extra dev pyproject.toml -o .requirements/dev.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --extra install --extra sim pyproject.toml -c .requirements/dev.txt -o .requirements/sim.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --extra install pyproject.toml -c .requirements/dev.txt -o .requirements/run.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-deps --no-emit-index-url --no-annotate --no-header --upgrade .requirements/alone.in -o .requirements/alone.txt

clean:
	rm -rf .venv .demo .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find station tests -name __pycache__ -prune -exec rm -rf {} +

setup-sim:
	@.ci/setup sim

setup-dev:
	@.ci/setup dev
