# Two commands: `make run` (from nothing to scored devices) and `make test`. `make help` lists the others.
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

# Dagster's home is the repository root; everything it and the platform write lies below the data directory.
export LIMS_DATA_DIR ?= $(CURDIR)/data
export DAGSTER_HOME ?= $(CURDIR)
export LIMS_DAGSTER_RUNS ?= $(LIMS_DATA_DIR)/dagster/runs
export LIMS_DAGSTER_EVENTS ?= $(LIMS_DATA_DIR)/dagster/events
export LIMS_DAGSTER_SCHEDULES ?= $(LIMS_DATA_DIR)/dagster/schedules
export LIMS_DAGSTER_LOGS ?= $(LIMS_DATA_DIR)/dagster/logs
export LIMS_DAGSTER_ARTIFACTS ?= $(LIMS_DATA_DIR)/dagster/artifacts
export DAGSTER_EVENT_BATCH_SIZE ?= 500
export DAGSTER_DISABLE_TELEMETRY := yes
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := 1
export PYTHONWARNINGS ?= ignore

.PHONY: help run dev hl7 test lint bench env clean-data programs

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the pinned versions into $(VENV) (about a minute)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

run: $(VENV)/.installed ## build the demo laboratory if no source is configured, run the whole graph, print what was found
	@$(BIN)/python -m lims_platform demo
	@$(BIN)/python -m lims_platform run $(if $(FROM),--from $(FROM)) $(if $(TO),--to $(TO))
	@$(BIN)/python -m lims_platform summary

dev: $(VENV)/.installed ## the Dagster UI on http://127.0.0.1:3000
	@mkdir -p $(LIMS_DATA_DIR)/dagster
	@$(BIN)/dagster dev -h 127.0.0.1 -p $(or $(PORT),3000)

hl7: $(VENV)/.installed ## listen for HL7 v2 results (MLLP)
	@$(BIN)/python -m lims_platform hl7

test: $(VENV)/.installed-dev programs ## every test, the slow ones in CI only
	@$(BIN)/python -m pytest $(if $(CI),,-m "not slow") $(ARGS)

lint: $(VENV)/.installed-dev ## ruff, mypy and the rules between rooms
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(VENV)/.installed-dev ## every figure of the README, one script each
	@for script in benchmarks/[a-z]*.py; do echo "== $$script"; PYTHONPATH=$(CURDIR) $(BIN)/python $$script || exit 1; done

# Programs the tests drive, as program:Debian package; RUNLEVEL=1 keeps a package from starting a service.
PROGRAMS := chromium:chromium nginx:nginx-light systemd-analyze:systemd
programs:
	@missing=; for p in $(PROGRAMS); do PATH="$$PATH:/usr/sbin" command -v $${p%%:*} >/dev/null || missing="$$missing $${p##*:}"; done; \
	[ -z "$$missing" ] || { \
	  echo "installing Debian's$$missing for the tests"; \
	  sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	  $$sudo apt-get update -qq && \
	  $$sudo env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing >/dev/null; }

env: ## the environment a hand-typed dagster command needs: eval "$$(make -s env)"
	@for v in LIMS_DATA_DIR DAGSTER_HOME LIMS_DAGSTER_RUNS LIMS_DAGSTER_EVENTS LIMS_DAGSTER_SCHEDULES LIMS_DAGSTER_LOGS \
	  LIMS_DAGSTER_ARTIFACTS DAGSTER_EVENT_BATCH_SIZE DAGSTER_DISABLE_TELEMETRY MLFLOW_DISABLE_TELEMETRY DO_NOT_TRACK; \
	do echo "export $$v='$${!v}'"; done; echo "export PATH='$(CURDIR)/$(BIN)':\"\$$PATH\""
