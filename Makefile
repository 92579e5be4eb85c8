# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
# The two commands: `make demo` and `make test`. Both do all the set-up that they need, as any user.

VENV ?= .venv
BIN := $(VENV)/bin
INJECTIONS ?= 1000
SEED ?= 1
ROUNDS ?= 3
JOBS ?= 4
export UV_LINK_MODE := copy
# tests start the program hundreds of times: compile it once
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo test test-without-fast-paths quick services faults machine-faults replica-faults postgresql node-contract lint check audit format bench docs site screenshots package container \
  lock clean

help:
	@echo "make demo         a cluster with two development nodes takes photos through (IMAGES=folder for your own)"
	@echo "make test         all tests; ends with what it skipped, and how to get it"
	@echo "make test-without-fast-paths  the same with --fast-paths off: every byte goes through the web server"
	@echo "make quick        lint, types, layers and the fast tests, in half a minute"
	@echo "make services     install what tests use where it is there: PostgreSQL, nginx, Slurm, Chromium, ... (root or sudo)"
	@echo "make faults       a storm of faults over a real cluster (INJECTIONS=1000 SEED=1), and a table of what was lost"
	@echo "make machine-faults  the same over machines that are created and deleted"
	@echo "make replica-faults  three replicas behind a balancer, each killed and stopped in turn (ROUNDS=3)"
	@echo "make node-contract  what is relied on in nodes, over real ones (NODEODM=checkout NODEODX=checkout)"
	@echo "make postgresql   what talks to PostgreSQL, over one version of it (POSTGRESQL=14)"
	@echo "make check        lint, types, import layers"
	@echo "make audit        known vulnerabilities of what we depend on (asks the internet)"
	@echo "make bench        measure, and write docs/performance.md"
	@echo "make docs         write the generated reference pages"
	@echo "make site         the documentation as a site, in dist/site"
	@echo "make screenshots  write docs/images from the running program"
	@echo "make package      wheel, sdist and bill of materials, in dist"
	@echo "make container    build the container with podman on Debian's packages, and run a task through it (as root)"
	@echo "make lock         lock the versions that the container has"

$(VENV)/.run: pyproject.toml tools/setup
	tools/setup $(VENV) .
	@touch $@

$(VENV)/.dev: pyproject.toml tools/setup
	tools/setup $(VENV) '.[dev]'
	@touch $@ $(VENV)/.run

demo: $(VENV)/.run
	$(BIN)/clusterodm demo $(if $(IMAGES),--images '$(IMAGES)')

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

test-without-fast-paths:
	CLUSTERODM_FAST_PATHS=off $(MAKE) test

quick: lint $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 -m "not slow" tests/core tests/recorded tests/test_*.py

services:
	tools/services

faults: $(VENV)/.dev
	$(BIN)/python -m tests.faults.storm --injections $(INJECTIONS) --seed $(SEED)

machine-faults: $(VENV)/.dev
	$(BIN)/python -m tests.faults.machine_storm --sequences $(INJECTIONS) --seed $(SEED)

replica-faults: $(VENV)/.dev
	tools/services initdb nginx
	$(BIN)/python -m tests.faults.replica_storm --rounds $(ROUNDS)

postgresql: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile tests/store tests/cluster/test_replicas.py tests/clients/test_backup.py \
	  tests/clients/test_restore.py

node-contract: $(VENV)/.dev
	NODEODM='$(NODEODM)' NODEODX='$(NODEODX)' $(BIN)/python -m pytest -rxs tests/node_contract

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint
	$(BIN)/bandit -q -c pyproject.toml -r src

audit: $(VENV)/.dev
	$(BIN)/pip freeze --exclude-editable >$(VENV)/frozen.txt
	$(BIN)/pip-audit --strict --disable-pip --no-deps --requirement $(VENV)/frozen.txt

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
	$(BIN)/uv pip compile --quiet --universal --upgrade --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --extra aws --extra kubernetes --output-file deploy/container/requirements.txt pyproject.toml
	echo hatchling | $(BIN)/uv pip compile --quiet --universal --upgrade --python-version 3.11 --generate-hashes --no-header \
	  --no-annotate --output-file deploy/container/build.txt -

screenshots: $(VENV)/.dev
	tools/services chromium libatomic
	SCREENSHOTS=docs/images $(BIN)/python -m pytest tests/clients/test_browser.py tests/admin/test_page.py tests/admin/test_machines.py -k "picture or uploaded or shows_machines"

clean:
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache demo-results
