# Two commands do all set-up: `make demo` (the main job on real data) and `make test` (everything CI checks).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint quick smoke derivations generated numbers bench budget closures limits mutations study notebooks docs stress constraints wheel clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

setup: $(STAMP)  ## create .venv (or VENV=...) with pinned versions

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "cflow needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": run make PYTHON=python3.x")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)  ## Scalar RMSProp on digits: discrete against stable, central and ablated flow; out/demo/report.html
	$(BIN)/cflow run --optimizer scalar_rmsprop --problem digits-mlp --learning-rate 0.1 --beta2 0.99 \
	  --warm-start 5 --steps 500 --processes discrete stable central ablated --out out/demo
	$(BIN)/cflow report out/demo/run.nc --out out/demo

lint: $(STAMP)  ## ruff, import contracts, pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

test: lint  ## lint, import contracts, types, all tests with doctests
	PYTHONHASHSEED=0 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --durations 15

quick: $(STAMP)  ## the tests without the full runs
	PYTHONHASHSEED=0 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m 'not slow'

SMOKE := tests/test_architecture.py tests/num/test_symmetric.py tests/num/test_eigenpairs.py tests/num/test_settings.py \
  tests/num/test_run.py tests/num/test_kinds.py tests/sym/test_sym_expansion.py tests/sym/test_sym_constants.py \
  tests/sym/test_sym_expressions.py tests/sym/test_sym_files.py

smoke: $(STAMP)  ## something of every wing: for a first hour, and between two changes (under two minutes once warm)
	PYTHONHASHSEED=0 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(SMOKE)

generated: $(STAMP)  ## regenerate cflow_sym/generated from the built-in specs
	$(BIN)/cflow codegen --all

derivations: $(STAMP)  ## regenerate derivations/ from the built-in specs
	$(BIN)/cflow derive --all --out derivations

numbers: $(STAMP)  ## measure the tables of full runs (README, docs; a quarter of an hour on two cores)
	$(BIN)/python benchmarks/verdicts.py

bench: $(STAMP)  ## work against precision of the integrators, parts of a step (an hour on two cores)
	$(BIN)/python benchmarks/precision.py
	$(BIN)/python benchmarks/parts.py

budget: $(STAMP)  ## what dropped terms and the closure explain of the distance (half an hour on two cores)
	$(BIN)/python benchmarks/budget.py

study: $(STAMP)  ## momentum over optimizers and seeds (half an hour on two cores)
	$(BIN)/python benchmarks/momentum.py

notebooks: $(STAMP)  ## run the notebooks and renew their rendered copies (seven minutes on one core)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[notebooks]'
	mkdir -p out/notebooks
	for name in part1 part2 part3 new_optimizer momentum; do \
	  rm -rf notebooks/rendered/$${name}_files && \
	  $(BIN)/jupytext --quiet --to ipynb --output out/notebooks/$$name.ipynb notebooks/$$name.py && \
	  $(BIN)/jupyter-nbconvert --log-level WARN --execute --to markdown --output-dir notebooks/rendered \
	    out/notebooks/$$name.ipynb || exit 1; \
	done
	$(BIN)/python -c 'import sys; from PIL import Image; [Image.open(p).convert("RGB").quantize(48).save(p) for p in sys.argv[1:]]' \
	  notebooks/rendered/*/*.png

docs: $(STAMP)  ## build the documentation into site/, strictly, to be read without a network (a minute on one core)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(BIN)/python -m mkdocs build --strict --quiet

closures: $(STAMP)  ## closures against the central flow on established edges (a quarter of an hour on one core)
	$(BIN)/python benchmarks/closures.py

limits: $(STAMP)  ## where the flow is wrong: derivations/limits.md (a quarter of an hour on one core)
	$(BIN)/python benchmarks/limits.py

mutations: $(STAMP)  ## put every known fault into the sources, one at a time: each must be caught (ten minutes on one core)
	$(BIN)/python -m tests.mutations.harness

stress: $(STAMP)  ## kill a run twenty times at random moments and resume it (five minutes on two cores)
	CFLOW_KILLS=20 $(BIN)/python -m pytest -q -s tests/num/test_checkpoints.py -k killed

constraints:  ## renew constraints.txt (needs uv)
	uv pip compile --universal --python-version 3.11 --extra dev --extra notebooks --extra docs pyproject.toml -o constraints.txt --no-header --no-annotate --no-emit-index-url
	@sed -i '1i # Pinned versions for a repeatable set-up with plain pip, on Python 3.11 and newer. Regenerate: make constraints' constraints.txt

wheel: $(STAMP)  ## build the wheel and the source distribution into dist/ (needs no network)
	rm -rf dist
	$(BIN)/python -m build --no-isolation

clean:  ## remove the environment and all outputs
	rm -rf .venv .venv-newest dist out site .pytest_cache .ruff_cache .hypothesis
