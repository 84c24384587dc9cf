# make demo   watch a server that does not fit be diagnosed, changed and proven well
# make test   install and pass all tests
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: install demo test check audit format clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --group dev --editable .
	touch $@

demo: install
	$(BIN)/diagnose lab demo

test: install
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python tools/audit.py

# What runs with us, and what is known against it (build/sbom.cdx.json); check does it, too.
audit: install
	$(BIN)/python tools/audit.py

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) dist build
