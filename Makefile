# make demo   set up, then talk with the shipped nano model       make test   set up, then the tests
# make nano   train the nano weights from scratch (resumable)     make lint   ruff
# make parity live agreement with transformers (own environment)  make bench  timing tables
# make test-slow  the slow tests alone                            (parity needs a C compiler)

PYTHON ?= python3
VENV   := .venv
PARITY := .venv-parity
BIN    := $(VENV)/bin
# With a GPU: make nano EXTRAS=test,notebooks,gpu
EXTRAS ?= test,notebooks
comma  := ,
READY  := $(VENV)/.ready-$(subst $(comma),-,$(EXTRAS))
PIP    := -m pip install --disable-pip-version-check --constraint .ci/constraints.txt

# Large CPU buffers page-fault at every call with glibc's defaults: keep them mapped.
export GLIBC_TUNABLES := glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=17179869184:glibc.malloc.arena_max=1
export PYTHONUNBUFFERED := 1

.PHONY: demo test test-slow lint parity nano bench clean

$(READY): setup.cfg pyproject.toml .ci/constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"omnijax needs Python 3.11 or newer, {sys.executable} is {v.major}.{v.minor}: run make PYTHON=/path/to/python3.11")'
	@echo "Setting up $(VENV) (once, about 1.7 GB) ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) --upgrade "setuptools>=77" wheel
	$(BIN)/python $(PIP) --no-build-isolation -e ".[$(EXTRAS)]"
	@touch $@

$(PARITY)/.ready: $(READY)
	$(PYTHON) -m venv $(PARITY)
	$(PARITY)/bin/python $(PIP) --upgrade "setuptools>=77" wheel
	$(PARITY)/bin/python $(PIP) torch==2.13.0
	$(PARITY)/bin/python $(PIP) --no-build-isolation -e ".[test,notebooks,parity,speakers]"
	@touch $@

demo: $(READY)
	$(BIN)/python experiments/demo.py

test: $(READY)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --max-worker-restart=0 --durations=25 -m "not slow and not parity"

test-slow: $(READY)
	$(BIN)/python -m pytest -q -m "slow and not parity"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

parity: $(PARITY)/.ready
	$(PARITY)/bin/python -m pytest -q -m parity

nano: $(READY)
	$(BIN)/python experiments/nano.py

bench: $(READY)
	$(BIN)/python experiments/bench.py

clean:
	rm -rf $(VENV) $(PARITY) .pytest_cache .ruff_cache
