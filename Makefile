# `make help` lists the targets.

VENV := .venv
BIN := $(VENV)/bin
SAMPLE := datasets/sample
# The first of these commands that is Python 3.11 or 3.12. To choose another: make PYTHON=/path/to/python test
PYTHON := $(shell for python in python3.12 python3.11 python3 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null \
	&& echo $$python && break; done)

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-fast lint docs clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /make \1\t/' | expand -t 16

venv: $(VENV)/.complete ## create .venv with all dependencies (a few minutes, 6 GB)

$(VENV)/.complete: requirements.txt requirements-cluster.txt constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or 3.12 on the PATH: install one, or give its path: make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' || { echo "error: PYTHON must be Python 3.11 or 3.12, got $(PYTHON), which is `$(PYTHON) --version 2>&1`"; exit 1; }
	@test ! -L $(VENV) || { echo "error: $(VENV) is a link, and creating the environment would delete what lies behind it: remove the link, or use that environment as it is after touch $(VENV)/.complete"; exit 1; }
	@echo "Creating $(VENV) with all dependencies: a few minutes, 6 GB"
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-r requirements.txt -r requirements-cluster.txt -c constraints.txt
	@touch $@

demo: venv ## train cae1d on the bundled sample for one or two minutes, and test it
	@echo "Two real EnMAP patches of dark water: enough to see every step work, far too few to judge a model."
	@echo "Nearly all their values are below 0.07, so PSNR with a peak of 1 is misleadingly high."
	@echo; echo "== preprocess"
	$(BIN)/python -m datasets.preprocess $(SAMPLE)
	@echo; echo "== train"
	$(BIN)/python train.py $(DEMO_FLAGS)
	@echo; echo "== test"
	@run=$$(ls -td results/trains/demo/*/ | head -n 1) && set -x \
	&& $(BIN)/python test.py --device cpu -d $(SAMPLE) -m cae1d --checkpoint $${run}best.pth.tar --save-dir results/tests/demo/ \
	&& { set +x; } 2>/dev/null && name=$$(basename $$run)-best \
	&& echo && echo "Look at:" \
	&& echo "  the result    results/tests/demo/$$name.json" \
	&& echo "  each image    results/tests/demo/$$name.csv" \
	&& echo "  pictures      results/tests/demo/$$name.png" \
	&& echo "  the run       $$run (settings.json, metrics.csv, checkpoints)" \
	&& echo "  its curves    $(BIN)/tensorboard --logdir results/trains/demo"

DEMO_FLAGS := --devices cpu -d $(SAMPLE) -m cae1d --transform random_4x4 --repeats 1000 -lr 5e-4 -e 7 -n 1 \
	--save-dir results/trains/demo/

test: lint ## lint, then run all tests
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

test-fast: lint ## lint, then run the quick tests (a minute and a half)
	$(BIN)/python -m pytest $(PYTEST_FLAGS) -m "not slow"

# One worker per core, at most 8, since each needs up to 2 GB of memory.
PYTEST_FLAGS := -n auto --maxprocesses 8 --dist worksteal

lint: venv ## check style and types (ruff, mypy)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: venv ## generate the figures of README and docs/ from the reports in results/benchmarks/
	$(BIN)/python -m benchmarks.pages

clean: ## remove .venv and caches; data and results stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
