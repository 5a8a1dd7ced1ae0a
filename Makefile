# make demo: install and run.  make test: the same, then the whole suite.
# make coverage: the suite, measured.  make check: lint, types, imports.  make docs: the pages of docs/ as a site, in build/site.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: demo test coverage check docs machines machines-long clean

demo: .venv/installed
	$(BIN)/securepfl run

test: demo .venv/installed-dev
	$(BIN)/python -m pytest -n auto --dist worksteal

# The suite once more, measured: fails below what is asked of the whole, and of what protects people.
coverage: demo .venv/installed-dev
	$(BIN)/python -m pytest -n auto --dist worksteal --cov --cov-report=
	$(BIN)/coverage report --fail-under=92
	$(BIN)/coverage report --include="crypto/*" --fail-under=97
	$(BIN)/coverage report --include="privacy/*" --fail-under=97

# The demo's federation among real processes over HTTPS: seconds, bytes, and whether states are equal.
machines: .venv/installed-dev
	$(BIN)/python benchmarks/machines.py

machines-long: .venv/installed-dev
	SECUREPFL_LONG=1 $(BIN)/python -m pytest -n 0 -m machines

check: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build
	$(PIP) --no-deps --target build/installed .
	cd build/installed && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p securepfl
	cp tests/user_code.py tests/user_code.json build/installed
	cd build/installed && ../../$(BIN)/mypy --config-file ../../pyproject.toml user_code.py
	cd build/installed && ../../$(BIN)/basedpyright -p user_code.json --pythonpath ../../$(BIN)/python
	cd build/installed && ../../$(BIN)/lint-imports --config ../../pyproject.toml

# No network; whatever mkdocs warns of is an error. (The variable quiets an advertisement.)
docs: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build
	@echo "open build/site/index.html"

clean:
	rm -rf .venv build runs *.egg-info .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(PIP) --editable '.[dev]'
	touch $@

.venv/installed-docs: .venv/installed
	$(PIP) --editable '.[docs]'
	touch $@
