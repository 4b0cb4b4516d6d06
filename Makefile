# One command for each thing a user does. `make help` lists them.
SHELL := /bin/bash
CONFIG ?= $(or $(AUTOSCALER_CONFIG),autoscaler.toml)
LEVEL ?= mid
PREFIX ?= /usr/local
DESTDIR ?=
AS_ROOT = $(if $(DESTDIR),,scripts/with-root.sh)
RUNTIME ?= native
VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
FAST_TESTS := --doctest-modules common services cli bench tests/unit tests/contract tests/sim
REAL_TESTS := scripts/with-root.sh $(BIN)/pytest -rs --complete
export AUTOSCALER_CONFIG := $(CONFIG)
export PYTHONDONTWRITEBYTECODE := 1
unexport PYTHONPATH PYTHONHOME PYTHONSTARTUP

.DEFAULT_GOAL := help
.PHONY: help up down clean install uninstall image image-wheels plot load bench bench-capacity bench-demo bench-policies dashboard-picture test test-fast test-slow test-ways test-debian13 faults chaos fuzz check format lock

help:  ## list what can be made
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up:  ## install what is missing, start everything, end when the endpoint answers; RUNTIME=compose: in containers; FORCE=1: see docs/operating.md
	@RUNTIME=$(RUNTIME) scripts/bootstrap.sh run
	@scripts/with-root.sh $(BIN)/autoscaler up --runtime $(RUNTIME) $(if $(FORCE),--force)

down:  ## stop the services and the domains they created; DISCARD_SAVED=1: those too whose memory somebody has saved
	@scripts/with-root.sh $(BIN)/autoscaler down $(if $(DISCARD_SAVED),--discard-saved)

clean:  ## down, and remove images, network, recordings and sockets too
	@scripts/with-root.sh $(BIN)/autoscaler down --everything $(if $(DISCARD_SAVED),--discard-saved)

image:  ## build the demo guest's image
	@scripts/bootstrap.sh run
	@scripts/with-root.sh $(BIN)/autoscaler image

image-wheels:  ## fetch the container image's Python packages here: it is then built without a package index
	@scripts/bootstrap.sh run
	@scripts/image-wheels.sh

plot:  ## the live graph in a window
	@scripts/bootstrap.sh run
	@$(BIN)/autoscaler plot

load:  ## drive the endpoint: LEVEL=low|mid|high, or PERIOD=0.3 (seconds between requests); GROUP=NAME of several
	@scripts/bootstrap.sh load
	@$(BIN)/autoscaler load --level $(LEVEL) $(if $(GROUP),--group $(GROUP)) $(if $(PERIOD),--period $(PERIOD)) $(if $(SECONDS_TO_RUN),--seconds $(SECONDS_TO_RUN))

bench: ## the benchmarks, with side-by-side ratios
	@scripts/bootstrap.sh dev
	@$(PY) -m bench

bench-capacity:  ## from a decision to the first request served, every tier: JSON=FILE (minutes)
	@scripts/bootstrap.sh dev
	@scripts/with-root.sh $(PY) -m bench.capacity $(if $(JSON),--json $(JSON))

bench-demo:  ## on a running demo: high load, Ctrl-C, and how long until the fewest domains again: RUNS=10 (half an hour)
	@scripts/bootstrap.sh dev
	@scripts/with-root.sh $(PY) -m bench.demo_ends --runs $(or $(RUNS),10) $(if $(JSON),--json $(JSON))

bench-policies:  ## the forecast against the published autoscalers, on real traces (minutes)
	@scripts/bootstrap.sh dev
	@$(PY) -m bench.policies

dashboard-picture:  ## docs/dashboard.png: the Grafana dashboard of the running installation, under load (minutes)
	@scripts/bootstrap.sh dev
	@$(PY) -m bench.dashboard_picture $(if $(SECONDS_TO_RUN),--seconds $(SECONDS_TO_RUN))

test:  ## everything the tests need, then all tests (real guests too; minutes)
	@scripts/bootstrap.sh dev
	@$(BIN)/pytest -n auto $(FAST_TESTS)
	@$(REAL_TESTS) -n auto -m "beside and not slow" tests/integration
	@$(REAL_TESTS) -m "not beside and not ways and not slow" --durations=12 tests/integration tests/e2e

test-ways:  ## the tests in containers, under systemd, with disk images, clones and warm reserves (a quarter of an hour)
	@scripts/bootstrap.sh dev
	@$(REAL_TESTS) -m "ways and not slow" --durations=12 tests/integration tests/e2e

test-slow:  ## the tests that load real guests for a minute and more each (half an hour)
	@scripts/bootstrap.sh dev
	@$(REAL_TESTS) -m slow --durations=12 tests/integration tests/e2e

test-fast:  ## the tests that need no hypervisor; two minutes
	@scripts/bootstrap.sh dev
	@$(BIN)/pytest -n auto -m "not long" $(FAST_TESTS)

test-debian13:  ## the fast tests on Debian 13, in a directory made for it and removed again; five minutes
	@scripts/bootstrap.sh dev
	@scripts/with-root.sh scripts/test-debian13.sh

faults:  ## the fault matrix with real parts, written to docs/faults.md (under 45 minutes): ROW=12 (one row), LONG=1 (full lengths)
	@scripts/bootstrap.sh dev
	@$(REAL_TESTS) -q -s --faults $(if $(LONG),--long) $(if $(ROW),--row $(ROW)) --page docs/faults.md tests

chaos:  ## faults in an order that SEED=1 decides, on real guests under load, for MINUTES=20
	@scripts/bootstrap.sh dev
	@$(REAL_TESTS) -q -s tests/chaos --seed $(or $(SEED),1) --minutes $(or $(MINUTES),20)

fuzz:  ## damaged input at every door: DOOR=haproxy (one of them), COUNT=1000000 (for each), SEED=1 (again as then)
	@scripts/bootstrap.sh dev
	@$(PY) -m tests.fuzz $(if $(DOOR),--door $(DOOR)) --count $(or $(COUNT),10000) $(if $(SEED),--seed $(SEED))

check:  ## format, lint, types, import contracts
	@scripts/bootstrap.sh dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format:  ## format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

install:  ## put it where the system keeps programs, with systemd units: PREFIX=/usr/local, DESTDIR=
	@scripts/bootstrap.sh run
	@PREFIX=$(PREFIX) DESTDIR=$(DESTDIR) $(AS_ROOT) $(PY) packaging/install.py install

uninstall:  ## stop it and take away what install put there; configuration, state and domains stay
	@PREFIX=$(PREFIX) DESTDIR=$(DESTDIR) $(AS_ROOT) $(PY) packaging/install.py uninstall

lock:  ## resolve the packages again and pin them by hash
	@scripts/lock.sh
