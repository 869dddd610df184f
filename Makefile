# Two commands are all there is to know: `make demo` and `make test`; `make docs` builds the site,
# `make coverage` says what the tests leave out.
# ACCELERATOR=cuda12, cuda13 or tpu installs the jax that drives it; the default is the CPU.

PYTHON ?= python3
ACCELERATOR ?= cpu
VENV := .venv
BIN := $(VENV)/bin
UV := uv==0.13.9
EXTRAS := bench,features,fonts,gallery,notebooks,ray,test$(if $(filter-out cpu,$(ACCELERATOR)),$(comma)$(ACCELERATOR))
comma := ,
STAMP := $(VENV)/.installed-$(ACCELERATOR)

.PHONY: demo test coverage docs lint types setup lock clean

demo: setup
	$(BIN)/python -m benchmarks demo

# Bytecode is kept whatever the environment says: a dozen processes import jax.
test: setup
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

# Which lines of the packages no test runs; below 95% of them it fails. What a test kills is not seen.
coverage: setup
	@mkdir -p .cache
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest --numprocesses 2 --dist worksteal
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

# The site goes to results/site.
docs: setup
	$(BIN)/uv pip install --quiet --constraint requirements.lock --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict \
		--config-file benchmarks/docs/mkdocs.yml

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/basedpyright

setup: $(STAMP)

# The lock constrains every package of every extra but torch; what is installed depends on ACCELERATOR.
$(STAMP): pyproject.toml requirements.lock
	@$(if $(filter $(ACCELERATOR),cpu cuda12 cuda13 tpu),,$(error ACCELERATOR must be cpu, cuda12, cuda13 or tpu, got '$(ACCELERATOR)'))
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, found %d.%d; name one with make PYTHON=python3.12 ..." % sys.version_info[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(UV)
	$(BIN)/uv pip install --quiet --constraint requirements.lock --editable '.[$(EXTRAS)]'
	@touch $@

# Pins every extra for every supported Python and platform, but for torch, which asks for NVIDIA's
# libraries in other versions than JAX. It holds no address.
LOCKED := bench features fonts test notebooks gallery ray docs cuda12 cuda13 tpu
lock: setup
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 $(LOCKED:%=--extra %) \
		--no-header --no-annotate --output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) .cache results
