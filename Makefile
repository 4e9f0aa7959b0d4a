# make demo | up | test | long | browser | faults | faults-full | mutations | survival | bench. Each first makes .venv, or checks it (well under two seconds).
#
#   PYTHON=python3.11      the interpreter for .venv
#   TORCH_INDEX=URL        where torch comes from, e.g. PyTorch's index of CPU builds; else pip's own index

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.SILENT:
.DEFAULT_GOAL := help
.PHONY: help demo up test long browser faults faults-full mutations survival bench environment clean

PYTHON ?= python3.11
TORCH := torch==2.13.0
EXTRAS := pipeline,service,openvino,dev
BENCH ?= service
CHROMIUM ?= /usr/bin/chromium

export DAGSTER_DISABLE_TELEMETRY := 1
export DO_NOT_TRACK := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONUNBUFFERED := 1
export PYTHON TORCH_INDEX CORPUS EMBEDDING_MODEL ARGS

# A worker that dies fails the test that it was at. Replaced, it would wait for ever once it is given a module of one test.
PYTEST := HF_HUB_OFFLINE=1 exec .venv/bin/python -m pytest -n auto --dist loadscope --no-loadscope-reorder --max-worker-restart=0

# Folders given relative to where make was called stay right wherever a command runs.
define absolute
absolute() { if [ -e "$$1" ]; then realpath -- "$$1"; else printf '%s\n' "$$1"; fi; }
if [ -n "$${EMBEDDING_MODEL:-}" ]; then EMBEDDING_MODEL="$$(absolute "$$EMBEDDING_MODEL")"; else unset EMBEDDING_MODEL; fi
if [ -n "$${CORPUS:-}" ]; then set -- --source "$$(absolute "$$CORPUS")"; else set --; fi
if [ -n "$(PORT)" ]; then export RBA_WEBSERVER_PORT="$(PORT)"; fi
endef

help:
	printf '%s\n' \
	  'make demo   from documents to searchable vectors, with a summary and three searches' \
	  '            CORPUS=folder            instead of the sample corpus' \
	  '            EMBEDDING_MODEL=folder   instead of the default model' \
	  'make up     database, embedding service, Dagster (web interface, daemon), until Ctrl-C' \
	  '            CORPUS=, EMBEDDING_MODEL= as above; PORT=3000 for the web interface' \
	  'make test   every test but those that take minutes; ARGS="-k name" goes to pytest' \
  'make long   the others: every way to launch, backfills and the sensor with a daemon, benchmarks end to end' \
	  'make browser   the web interface, used in a real browser; pictures of its pages in .state/screenshots' \
	  '            CHROMIUM=/usr/bin/chromium' \
	  '            PICTURES=docs/images     takes the pictures of the guide there' \
	  'make faults every fault that must be survived, and a table of them' \
	  'make faults-full   the longest of them at full size: an hour of load, backfills of 50 partitions' \
	  'make mutations     switches off one defence at a time, and sees the test fail that is for it' \
	  'make survival CORPUS=folder     a backfill of all of it, killed in the middle, and an account of what it left' \
	  'make bench  a measurement                    BENCH=service, engine, operations, memory, start, gpu, quality, pace, tune, streams, plan, scale, soak' \
	  '            ARGS="--help"            says what it does and takes' \
	  'make clean  removes .venv and caches; with STATE=1 also the database, the records and .env' \
	  'Setting up: PYTHON=python3.11, TORCH_INDEX=URL of the index that torch is taken from'

demo: environment
	$(absolute)
	exec .venv/bin/rba-pipeline demo "$$@"

up: environment
	$(absolute)
	exec .venv/bin/rba-pipeline up "$$@"

test: environment
	unset EMBEDDING_MODEL CORPUS
	$(PYTEST) -m "not long and not full" $$ARGS

# The driver of the browser is installed at the first call: make test does without it.
browser: environment
	unset EMBEDDING_MODEL CORPUS
	[ -x "$(CHROMIUM)" ] || {
	  echo "make: no browser at $(CHROMIUM). On Debian: apt-get install chromium;" \
	    "or name another one: make browser CHROMIUM=/path/to/chromium" >&2; exit 1; }
	.venv/bin/python -m pip install --quiet --quiet -c constraints.txt --no-build-isolation -e '.[browser]'
	HF_HUB_OFFLINE=1 .venv/bin/python -m pytest rba_pipeline_tests/browser --chromium "$(CHROMIUM)" $$ARGS
	if [ -n "$(PICTURES)" ]; then
	  mkdir -p "$(PICTURES)"
	  cp .state/screenshots/{launchpad,backfilled}.png "$(PICTURES)"
	fi

long: environment
	unset EMBEDDING_MODEL CORPUS
	$(PYTEST) -m "long and not case and not full" $$ARGS

faults: environment
	unset EMBEDDING_MODEL CORPUS
	$(PYTEST) --fault-table -m "case and not full" $$ARGS

faults-full: environment
	unset EMBEDDING_MODEL CORPUS
	$(PYTEST) --fault-table=run -m full $$ARGS

mutations: environment
	unset EMBEDDING_MODEL CORPUS
	HF_HUB_OFFLINE=1 exec .venv/bin/python -m rba_pipeline_tests.mutations $$ARGS

survival: environment
	[ -n "$${CORPUS:-}" ] || { echo "make: name the publications: make survival CORPUS=folder" >&2; exit 1; }
	HF_HUB_OFFLINE=1 exec .venv/bin/python -m rba_pipeline_tests.survival --corpus "$$CORPUS" $$ARGS

bench: environment
	unset EMBEDDING_MODEL CORPUS
	HF_HUB_OFFLINE=1 exec .venv/bin/python -m "benchmarks.$(BENCH)" $$ARGS

# The stamp is written last and holds the folder: an interrupted installation and a moved folder are both seen.
environment:
	wanted="$$PWD $$(cat setup.py constraints.txt Makefile | sha256sum | cut -c 1-64)"
	if [ -x .venv/bin/python ] && [ "$$(cat .venv/complete 2>/dev/null)" = "$$wanted" ] \
	    && .venv/bin/python -c '' 2>/dev/null; then exit 0; fi
	if [ "$$(cut -d ' ' -f 1 .venv/folder 2>/dev/null)" != "$$(pwd | sha256sum | cut -c 1-64)" ] \
	    || ! .venv/bin/python -c 'import pip' 2>/dev/null; then
	  command -v "$$PYTHON" >/dev/null || {
	    echo "make: $$PYTHON is not installed. On Debian: apt-get install python3.11 python3.11-venv;" \
	      "or name another interpreter: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	  "$$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
	    echo "make: $$("$$PYTHON" --version) is too old; 3.11 is needed: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	  "$$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || {
	    echo "make: $$PYTHON cannot make virtual environments. On Debian: apt-get install python3.11-venv" >&2; exit 1; }
	  echo "making .venv with $$("$$PYTHON" --version)"
	  rm -rf .venv
	  "$$PYTHON" -m venv .venv
	  pwd | sha256sum > .venv/folder
	fi
	rm -f .venv/complete
	pip() { .venv/bin/python -m pip install --quiet --quiet -c constraints.txt "$$@"; }
	echo "installing $(TORCH) (the largest part: some minutes on a slow line)"
	pip setuptools
	# On a machine without a GPU the CPU builds are a tenth of the size.
	pip $${TORCH_INDEX:+--index-url "$$TORCH_INDEX"} '$(TORCH)' || {
	  [ -z "$${TORCH_INDEX:-}" ] || echo "make: $(TORCH) could not be taken from $$TORCH_INDEX;" \
	    "if that cannot be reached, leave TORCH_INDEX out" >&2
	  exit 1; }
	echo "installing everything else, as pinned in constraints.txt (a minute or two)"
	pip --no-build-isolation -e '.[$(EXTRAS)]'
	printf '%s\n' "$$wanted" > .venv/complete
	echo ".venv is ready after $$SECONDS s"

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	if [ "$(STATE)" != 1 ]; then exit 0; fi
	if [ -e .state/postgres/data/postmaster.pid ]; then
	  echo "make: the database is running, or was killed; end make up, or wait, and try again" >&2; exit 1
	fi
	# For root the data may lie outside of the project: .state/postgres is a link then.
	if [ -L .state/postgres ]; then rm -rf -- "$$(readlink .state/postgres)"; fi
	rm -rf .state .env
