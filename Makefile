# Everything a clone needs is Python 3.11 to 3.13 with venv and pip; `make help` lists the commands.
# .venv belongs to this file: it is made anew when PYTHON's version changes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check

# A stamp is written as a recipe's last act, so an interrupted installation leaves none.
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
CREATED := $(VENV)/created-by-python$(VERSION)
FOR_DEMO := $(VENV)/installed-for-demo
FOR_TEST := $(VENV)/installed-for-test
OLDEST := .venv-oldest

.DEFAULT_GOAL := help
.PHONY: help demo test check oldest gpu frameworks clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

help: ## list these commands
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' Makefile

demo: $(FOR_DEMO) ## train a small CLIP three ways on real pictures and compare (runs/demo/)
	$(BIN)/jest-loader demo

test: check ## run the gates, then the tests
	$(BIN)/python -m pytest --cov -n auto --dist worksteal

check: $(FOR_TEST) ## run the gates only: format, lint, spelling, types, imports, sizes, names
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tests/gates/circles.py
	$(BIN)/python tests/gates/sizes.py
	$(BIN)/python tests/gates/names.py

oldest: $(OLDEST)/installed ## run the quick tests with the oldest dependencies that pyproject.toml allows
	$(OLDEST)/bin/python -m pytest -m "not slow" -W default # old libraries warn of each other

gpu: $(FOR_TEST) ## measure all that wants a GPU, in nine minutes on an H100 (runs/gpu/)
	$(BIN)/python -m bench.gpu --out runs/gpu

frameworks: ## run the tests of each training loop in an environment of its own (bench/results/frameworks_cpu.txt)
	$(PYTHON) tests/frameworks/environments.py

clean: ## remove .venv, .venv-oldest, .frameworks, runs/ and all that the tools leave behind
	rm -rf $(VENV) $(OLDEST) .frameworks runs build dist *.egg-info .coverage .coverage.* htmlcov
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(FOR_TEST): pyproject.toml $(CREATED)
	@rm -f $(FOR_DEMO)
	@echo "Installing jest-loader, its extras and the test tools into $(VENV): minutes the first time, torch alone is gigabytes."
	@$(INSTALL) --editable '.[all,dev]'
	@touch $(FOR_DEMO) $(FOR_TEST)

# The tests' installation brings all of this along, hence writes this stamp too.
$(FOR_DEMO): pyproject.toml $(CREATED)
	@echo "Installing jest-loader and what its demo needs into $(VENV): minutes the first time, torch alone is gigabytes."
	@$(INSTALL) --editable '.[demo]'
	@touch $(FOR_DEMO)

$(CREATED):
	@command -v $(PYTHON) >/dev/null || { \
	  echo "$(PYTHON) is not there: install Python 3.11, 3.12 or 3.13, or name one, as in: make demo PYTHON=/path/to/python3.13" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "Python 3.11 to 3.13 is needed and $(PYTHON) is $(VERSION): name another, as in: make demo PYTHON=python3.13" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) has no venv module: on Debian and Ubuntu, apt install python$(VERSION)-venv" >&2; exit 1; }
	@echo "Making $(VENV) with Python $(VERSION)."
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# The oldest versions have wheels for the oldest Python alone.
$(OLDEST)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
	  echo "The oldest dependencies need Python 3.11 and $(PYTHON) is $(VERSION): name it, as in: make oldest PYTHON=python3.11" >&2; exit 1; }
	@echo "Installing jest-loader with its oldest dependencies into $(OLDEST): minutes, torch alone is gigabytes."
	@$(PYTHON) -m venv --clear $(OLDEST)
	@$(PYTHON) tests/gates/floors.py > $(OLDEST)/constraints.txt
	@$(OLDEST)/bin/python -m pip install -qq --disable-pip-version-check --editable '.[all,dev]' --constraint $(OLDEST)/constraints.txt
	@touch $@
