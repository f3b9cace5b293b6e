# Everything runs in .venv, which the first target that needs it builds; setup.py says what is in it.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
PYTHONS := python3.11 python3.10 python3.9 python3
FITS := import sys, ensurepip, venv; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 11))

.PHONY: help venv demo experiments feature-curves test lint clean

help:
	@echo "make venv   build $(VENV) (make clean venv PYTHON=/path/to/python chooses the Python)"
	@echo "make demo   compress and decompress sample photos; images in demo_output/"
	@echo "make experiments   damage and rebuild the levels of the shipped detector; experiments_output/"
	@echo "make feature-curves   code the features of the shipped detector at all rates; feature_curves_output/"
	@echo "make test   run the tests and the examples in docstrings"
	@echo "make lint   check the code and its format with ruff"
	@echo "make clean  remove $(VENV) and all that was built"

venv: $(STAMP)
	@$(BIN)/python -c "import sys; print('$(VENV) has Python ' + sys.version.split()[0])"

# A python3.9 on the path may be a launcher for a version that is absent, so each is run. The stamp
# is written last and `venv --clear` removes an old one, so that a failed installation leaves none.
$(STAMP): setup.py
	@for python in $(or $(PYTHON),$(PYTHONS)); do \
	  if $$python -c "$(FITS)" >/dev/null 2>&1; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "found no Python 3.9, 3.10 or 3.11 with the venv module among: $(or $(PYTHON),$(PYTHONS));" \
	    "install one or name it: make PYTHON=/path/to/python3.11 venv" >&2; \
	  exit 1; \
	fi; \
	echo "installing into $(VENV) with $$found, a minute or two" && \
	$$found -m venv --clear $(VENV) && \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev,cluster]" && \
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python bin/demo.py --output=demo_output

experiments: $(STAMP)
	$(BIN)/python bin/run_experiments.py --detector=shapes --dataset=shapes --split=test --limit=200 \
	  --output=experiments_output

feature-curves: $(STAMP)
	$(BIN)/python bin/feature_curves.py --detector=shapes --dataset=shapes --split=test --limit=24 \
	  --models=feature_shapes@0,14,28,43,57,71,86,100 \
	  --rules='p2=p3:up, p4=0.75*p3:down+0.25*p5:up, p6=p5:pick' --anchors=jpeg,webp \
	  --image_models=mbt2018_variable@0,25,50,75,100 --image_anchors=jpeg --output=feature_curves_output

# Two processes: TensorFlow takes most of a test's time to start, on one core. A file's tests stay
# in one process, so that what they build once is built once.
test: $(STAMP)
	$(BIN)/python -m pytest --quiet --numprocesses=2 --dist=loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) demo_output experiments_output feature_curves_output build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
