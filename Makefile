# The README's commands. Each makes .venv first where it is missing or requirements.lock has changed.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test check bench clean
.DEFAULT_GOAL := help

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/ready ## every nucleus of a slide: tissue, plan, run on local Ray, verify, objects, a picture
	$(BIN)/python jobs/nuclei_slide.py

# Many tests start processes of their own: each would compile the engine anew where bytecode may not be kept.
test: check ## lint, types, doctests and every test that is not slow
	PYTHONDONTWRITEBYTECODE= PYTHONHASHSEED=0 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadgroup --no-loadscope-reorder

check: .venv/ready ## lint and types only
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: .venv/ready ## the side-by-side figures; results are kept in benchmarks/results/
	$(BIN)/python -m benchmarks

clean: ## remove .venv, caches and what the demo wrote
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks build dist demo-output score-output brain-output cap-output organs-output convection-output eddy-output physics-output pockets-output *.egg-info
	find engine jobs benchmarks tests -name __pycache__ -type d -prune -exec rm -rf {} +

# A changed lock makes .venv anew, so that nothing left over can hide a missing pin; a changed pyproject.toml only
# installs the engine again, and pip then checks that the pins satisfy what it asks for. pip compiles one file after the
# other, the packages' tests too: 62 s here, and this takes 18 s. What is for a later Python does not compile.
.venv/packages: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.lock
	@$(BIN)/python -m compileall -qq -j 2 -x '/tests?/' .venv/lib || true
	@touch $@

.venv/ready: .venv/packages pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/python -m pip check --quiet --disable-pip-version-check
	@touch $@
