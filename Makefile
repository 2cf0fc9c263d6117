# Each target makes what it needs, the virtual environment in .venv included.
PYTHON ?= python3
READY := .venv/ready
LOWEST := .venv-lowest/ready
# a process of the tests takes one core and up to 3 GB
TESTERS = $(or $(WORKERS),$(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$((n > 8 ? 8 : n))))
PACKAGES := baselines docs episodes examples fewshot tests

.DEFAULT_GOAL := help
.PHONY: help bench test test-lowest lint docs tables perf clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

bench: $(READY)  ## train, evaluate, write tables; PRESET= DATASET= LEARNER= PROTOCOL= WAY= SHOT= QUERY= EPISODES= STEPS= DATA= SIZE= HELD_OUT= DEVICE= SEED= OUTPUT= WORKERS= KEEP= KIND= TEST= pass through
	@.venv/bin/fewshot bench --resume \
		$(if $(PRESET),--preset '$(PRESET)') $(if $(DATASET),--dataset '$(DATASET)') \
		$(if $(LEARNER),--learner '$(LEARNER)') $(if $(DATA),--data '$(DATA)') $(if $(DEVICE),--device '$(DEVICE)') \
		$(if $(WAY),--way '$(WAY)') $(if $(SHOT),--shot '$(SHOT)') $(if $(QUERY),--query '$(QUERY)') \
		$(if $(EPISODES),--episodes '$(EPISODES)') $(if $(STEPS),--steps '$(STEPS)') \
		$(if $(KIND),--kind '$(KIND)') $(if $(TEST),--test '$(TEST)') \
		$(if $(PROTOCOL),--protocol '$(PROTOCOL)') $(if $(HELD_OUT),--held-out '$(HELD_OUT)') \
		$(if $(SIZE),--size '$(SIZE)') $(if $(SEED),--seed '$(SEED)') $(if $(OUTPUT),--output '$(OUTPUT)') \
		$(if $(WORKERS),--workers '$(WORKERS)') $(if $(KEEP),--keep)

test: lint docs  ## lint, build the documentation, then run the tests on WORKERS= cores; FAST=1 leaves out those that train, SLOW=1 adds those that take minutes
	@.venv/bin/pytest -n $(TESTERS) $(if $(FAST),-m 'not slow and not training',$(if $(SLOW),-m ''))

test-lowest: $(LOWEST)  ## run the quick tests with the lowest versions that setup.cfg allows; they want PYTHON=python3.11
	@.venv-lowest/bin/pytest -n $(TESTERS) -W ignore --ignore tests/test_learn2learn.py

lint: $(READY)  ## check style, formatting and types
	@.venv/bin/ruff check --quiet $(PACKAGES)
	@.venv/bin/ruff format --quiet --check $(PACKAGES)
	@.venv/bin/mypy --no-error-summary

docs: $(READY)  ## build the documentation into site/; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet

tables: $(READY)  ## rewrite the tables of README.md and of the documentation from the committed rows
	@.venv/bin/python -m docs.tables

perf: $(READY)  ## measure speed and memory beside other packages; ONLY= DATA= OUTPUT= pass through
	@.venv/bin/fewshot perf --resume \
		$(if $(ONLY),--only '$(ONLY)') $(if $(DATA),--data '$(DATA)') $(if $(OUTPUT),--output '$(OUTPUT)')

clean:  ## remove the virtual environment and what tools leave behind; results and the data cache stay
	rm -rf .venv .venv-lowest .mypy_cache .pytest_cache .ruff_cache site *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# learn2learn 0.2.0 ships C files too old for Python >= 3.11: built in this environment, with its own Cython, they are
# made anew. Its needs at run time are the extra 'meta'.
$(READY): setup.cfg pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, $(PYTHON) is older: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@echo "Setting up .venv: a few minutes, and 6 GB of disk, on the first call"
	@$(PYTHON) -m venv .venv
	@.venv/bin/python -m pip install --quiet --upgrade pip 'setuptools>=77' wheel 'cython>=3'
	@PYTHONWARNINGS=ignore .venv/bin/python -m pip install --quiet --editable '.[meta,peers,test]'
	@.venv/bin/python -m pip install --quiet --use-pep517 --no-deps --no-build-isolation \
		--config-settings=--build-option=build_ext learn2learn==0.2.0
	@touch $(READY)

# Old packages beside new ones warn of each other. learn2learn is no dependency, and the Makefile pins it.
$(LOWEST): setup.cfg tests/lowest.py
	@$(PYTHON) -m venv .venv-lowest
	@$(PYTHON) tests/lowest.py > .venv-lowest/constraints.txt
	@.venv-lowest/bin/python -m pip install --quiet --constraint .venv-lowest/constraints.txt --editable '.[test]'
	@touch $(LOWEST)
