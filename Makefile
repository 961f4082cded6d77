# Every target works from a bare clone: it makes .venv first.
VENV    := .venv
BIN     := $(CURDIR)/$(VENV)/bin
PY      := $(BIN)/python
READY   := $(VENV)/.ready
MEMBERS := ./lint ./kernels $(sort $(wildcard ./plugins/*))
TOOLS   := "pytest>=8" "pytest-xdist>=3.6" "hypothesis>=6.100" "ruff>=0.9,<0.20" "mypy>=1.14,<3" "import-linter>=2.1,<3"
PACKAGES := hecate_core $(wildcard */src/hecate_*) $(wildcard plugins/*/src/hecate_*)

# One torch thread: a second one makes small matmuls slower.
export OMP_NUM_THREADS := 1
export PATH := $(BIN):$(PATH)

.PHONY: setup test lint demo bench soak gpu clean

setup: $(READY)

$(READY): pyproject.toml $(wildcard */pyproject.toml) $(wildcard plugins/*/pyproject.toml) tests/setup_venv.sh
	bash tests/setup_venv.sh "$(VENV)" $(MEMBERS) -- $(TOOLS)
	touch $@

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy $(PACKAGES)
	$(BIN)/lint-imports

test: lint
	$(PY) -m pytest -n 2 --dist worksteal -m "not soak"

clean:
	rm -rf $(VENV)
