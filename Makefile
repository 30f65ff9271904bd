# `make run` clusters the digits, `make test` checks a change, `make check` also runs the slow checks, and `make docs`
# builds the documentation site.
# Each target first sets up .venv if it is not ready.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The installed packages depend only on these two files; their checksum names the stamp.
STAMP := $(VENV)/.installed-$(shell cat requirements.lock pyproject.toml 2>/dev/null | cksum | tr ' ' '-')

.PHONY: run test check lint docs setup lock floors clean

run: setup
	$(BIN)/mpcc-run

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# One process per core, each with one thread: more threads do not speed up tests of small networks.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

test: lint
	$(PYTEST) -m "not check"

check: lint
	$(PYTEST)

# The source folder is the root of the repository, so that links mean the same here and on the site.
docs: setup
	$(BIN)/sphinx-build -W --keep-going -q -c docs -d build/doctrees . build/site
	@echo "build/site/index.html"

setup: $(STAMP)

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "mpcc needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the locked dependencies into $(VENV) (a few minutes and GB the first time)"
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	rm -f $(VENV)/.installed-*
	touch $@

# Needs uv. The lock has no index lines: hashes pin the files, whatever index serves them.
lock:
	uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-header --no-annotate \
	    --extra dev pyproject.toml -o requirements.lock

# Needs uv and some GB: a temporary environment with the lowest versions that pyproject.toml allows.
floors:
	$(PYTHON) benchmarks/lowest_versions.py --python $(PYTHON)

clean:
	rm -rf build dist *.egg-info
