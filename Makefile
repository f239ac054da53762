# make demo                a small evidence folder, made and scanned
# make test                formatting, lint, types and all tests
# make hostile             the whole collection of hostile files, as a folder and as an archive; minutes
# make fuzz                100,000 mutated images and 25,000 mutated archives; about ten minutes
# make soak               20,000 images, killed ten times and gone on with; ARGS="--images 1000" for fewer
# make cost               what supervision and journal cost beside a plain loop, in processor time
# make weights SRC=folder  all models, trained anew on the images in the folder
# make eval SRC=folder     the tables of the README, measured on the images in the folder
# make bench               speed, memory and what they are compared with, to benchmarks/; ARGS="--only scan,baselines" for less

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --retries 10
OUT := demo-out

.PHONY: demo test hostile fuzz soak cost weights eval bench clean
.DELETE_ON_ERROR:

# Each stamp says what the environment holds; a newer pyproject.toml makes it stale. `test` holds all that `demo` does.
$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "jscan needs Python 3.11 or later; name one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.has-demo: pyproject.toml | $(VENV)/bin/python
	$(PIP) --editable '.[demo]'
	@touch $@

$(VENV)/.has-test: pyproject.toml | $(VENV)/bin/python
	$(PIP) --editable '.[demo,dev,train]'
	@touch $@ $(VENV)/.has-demo

demo: $(VENV)/.has-demo
	$(PY) demo/make_evidence.py $(OUT)
	$(PY) -m jscan scan $(OUT)/evidence --out $(OUT)/results.parquet --heatmaps $(OUT)/heatmaps --overwrite
	@echo
	@echo "The Parquet file:   $(CURDIR)/$(OUT)/results.parquet"
	@echo "The heatmaps:       $(CURDIR)/$(OUT)/heatmaps"
	@echo "What was done:      $(CURDIR)/$(OUT)/truth/README.md"
	@echo "One image closely:  $(VENV)/bin/jscan show $(OUT)/evidence/07_spliced_motorcycle.jpg"

test: $(VENV)/.has-test
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy --strict jscan train
	$(PY) -m pytest -n 2 --quiet

hostile: $(VENV)/.has-test
	$(PY) -m pytest -q -s -m full tests/test_hostile.py

fuzz: $(VENV)/.has-test
	JSCAN_FUZZ=25000 $(PY) -m pytest -q -s tests/test_fuzz.py 2>/dev/null  # libtiff complains there of every file

soak: $(VENV)/.has-test
	PYTHONPATH=. $(PY) tests/soak.py $(ARGS)

cost: $(VENV)/.has-test
	PYTHONPATH=. $(PY) tests/cost.py $(ARGS)

weights: $(VENV)/.has-test
	@test -n "$(SRC)" || { echo "name a folder of images: make weights SRC=folder"; exit 2; }
	$(PY) -m train.build "$(SRC)" $(ARGS)

eval: $(VENV)/.has-test
	@test -n "$(SRC)" || { echo "name a folder of uncompressed images: make eval SRC=folder"; exit 2; }
	$(PY) -m train.evaluate "$(SRC)" $(ARGS)

bench: $(VENV)/.has-test
	$(PY) -m train.bench $(ARGS)

clean:
	rm -rf $(OUT) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
