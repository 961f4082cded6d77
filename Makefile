# Every target works from a bare clone: it makes .venv first.
VENV    := .venv
BIN     := $(CURDIR)/$(VENV)/bin
PY      := $(BIN)/python
READY   := $(VENV)/.ready
MEMBERS := ./lint ./kernels $(sort $(wildcard ./plugins/*))
TOOLS   := "pytest>=8" "pytest-xdist>=3.6" "hypothesis>=6.100" "ruff>=0.9,<0.20" "mypy>=1.14,<3" "import-linter>=2.1,<3" "jsonschema>=4" "matplotlib>=3.9,<4"
PACKAGES := hecate_core $(wildcard */src/hecate_*) $(wildcard plugins/*/src/hecate_*)

# One torch thread: a second one makes small matmuls slower.
export OMP_NUM_THREADS := 1
export PATH := $(BIN):$(PATH)

.PHONY: setup demo test lint bench gpu soak clean

setup: $(READY)

$(READY): pyproject.toml $(wildcard */pyproject.toml) $(wildcard plugins/*/pyproject.toml) tests/setup_venv.sh
	bash tests/setup_venv.sh "$(VENV)" $(MEMBERS) -- $(TOOLS)
	touch $@

demo: $(READY)            # build a model and its attention-only twin, compare, show a sample
	$(PY) -m hecate_core.cli demo

lint: $(READY)            # style, types, floors, and our own linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(PACKAGES)
	$(BIN)/lint-imports
	$(BIN)/hecate-lint --strict .

test: lint                # everything that must hold before a commit
	$(PY) -m pytest -n 2 --dist worksteal -m "not soak"

soak: $(READY)            # the long products with fixed seeds
	$(PY) -m pytest -n 2 --dist worksteal -m soak

bench: $(READY) $(VENV)/peer   # timings as ratios against peers and parts; each script says what it needs
	for script in $(sort $(wildcard benchmarks/*.py)); do PYTHONPATH=$(VENV)/peer $(PY) $$script || exit 1; done

gpu: $(READY)             # what only a GPU can say: parity, sanitizers, speed, launching; says "not run" without one
	PYTHONPATH=$(VENV)/peer $(PY) benchmarks/gpu.py $(GPU)

# What the benchmarks compare with lies beside the environment and touches nothing in it.
$(VENV)/peer: benchmarks/peer.txt $(READY)
	rm -rf $@
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --target $@ -r $<
	touch $@

clean:
	rm -rf $(VENV)
