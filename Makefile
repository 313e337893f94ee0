# `make demo` and `make test` do all their own set-up. See README.md.
SHELL := /bin/sh
PYTHON := .venv/bin/python
# dom0's, of XCP-ng 8.3, and the oldest that `sxm` takes.
PYTHON36 := $(shell tools/python_of.sh 3.6)
PYTHON39 := $(shell tools/python_of.sh 3.9)
PYTEST := -m pytest -q
# Whole files side by side: what the tests of one share is set up once.
BESIDE := -n 2 --dist loadfile
# Tests with hosts wait for a good part of their time.
BESIDE_HOSTS := -n 3 --dist loadfile
DOM0_CODE := storage_motion plugins drivers lab/sm lab/blktap lab/dom0
# What the unit tests import runs on dom0's Pythons as well. The `sxm` command is for newer ones, and is not in dom0.
NOT_DOM0 := (storage_motion|tests/unit)/cli/
UNIT_TESTS := tests/unit tests/eventually.py lab/pools/daemons.py lab/xenopsd/process.py

.PHONY: demo lab lab-down lint test test-code test-hosts test-unit test-coverage test-python36 test-python39 test-lab test-e2e test-storage test-faults test-fuzz check-dom0-syntax man walkthrough rpm bench bench-quick bench-docs clean packages

demo: .venv/ready
	@$(PYTHON) -m lab.demo

# Two pools that stay up, for `sxm` to be tried in.
lab: .venv/ready
	@$(PYTHON) -m lab.pools try

lab-down: .venv/ready
	@$(PYTHON) -m lab.pools down

test: test-code test-hosts

# The code by itself, which keeps every processor busy; and hosts of the lab, which wait for one another half the time.
test-code: lint test-unit check-dom0-syntax test-python36 test-python39 test-coverage
test-hosts: test-lab test-e2e

lint: .venv/ready
	@# No cache: the order of a file's imports depends on where other files are.
	@.venv/bin/ruff check --no-cache .
	@.venv/bin/ruff format --check --quiet . || { echo 'Format it: .venv/bin/ruff format .'; exit 1; }
	@.venv/bin/mypy

test-unit: .venv/ready
	$(PYTHON) $(PYTEST) $(BESIDE) --no-loadscope-reorder tests/unit tests/fuzz

# What decides about a user's data is covered, each of these to this much of its lines and branches, by the unit tests of these folders. Not
# in test-unit, which is to fail fast: measuring makes some of the tests three times as long.
FLOOR := 95
COVERED := switch/* journal/* source/merge.py \
    $(addprefix migration/recovery,.py _decision.py _source.py _destination.py)
COVERING := $(addprefix tests/unit/,switch journal source migration api)
test-coverage: .venv/ready
	$(PYTHON) $(PYTEST) $(BESIDE) --cov --cov-report= -m 'not no_cover' $(COVERING)
	@set -ef; for part in $(addprefix storage_motion/,$(COVERED)); do \
	    .venv/bin/coverage report --include="$$part" --fail-under=$(FLOOR) --skip-covered --show-missing; done

# The long run: FUZZ=100000 make test-fuzz
test-fuzz: .venv/ready
	FUZZ=$(or $(FUZZ),100000) $(PYTHON) $(PYTEST) tests/fuzz

# Without a Python 3.6 the syntax of dom0's code is still held to it; CI insists on the real one (REQUIRE_PYTHON36).
check-dom0-syntax: .venv/ready
	@.venv/bin/vermin --quiet --no-tips --violations -t=3.6- --eval-annotations --exclude-regex '$(NOT_DOM0)' $(DOM0_CODE) $(UNIT_TESTS)
	@.venv/bin/vermin --quiet --no-tips --violations -t=3.9- --eval-annotations storage_motion/cli

# Exploring the model of the cut-over with databases that go back runs nothing of dom0's code: it is as good on one Python.
MODEL_ALONE := $(addprefix --ignore=tests/unit/switch/test_cutover_,databases.py syncs.py)
test-python36: .venv36/ready
ifneq ($(PYTHON36),)
	.venv36/bin/python $(PYTEST) $(BESIDE) -p no:cacheprovider $(MODEL_ALONE) --ignore=tests/unit/cli tests/unit
else
	@echo '*** There is no Python 3.6 on this machine: the unit tests have NOT run on it. ***'
	@test -z "$(REQUIRE_PYTHON36)"
endif

test-python39: .venv39/ready
ifneq ($(PYTHON39),)
	.venv39/bin/python $(PYTEST) $(BESIDE) -p no:cacheprovider tests/unit/cli
else
	@echo '*** There is no Python 3.9 on this machine: the tests of sxm have NOT run on it. ***'
endif

test-lab: .venv/ready .venv36/ready
	$(PYTHON) $(PYTEST) $(BESIDE_HOSTS) tests/lab tests/rpm tests/systemd

test-e2e: .venv/ready .venv36/ready build/npm/ready
	$(PYTHON) $(PYTEST) $(BESIDE_HOSTS) tests/e2e
ifneq ($(PYTHON36),)
	SXM_LAB_PYTHON=$(CURDIR)/.venv36/bin/python SXM_LAB_RELEASE=xcp-ng-8.3 $(PYTHON) $(PYTEST) tests/e2e/test_migrate.py
else
	@echo '*** There is no Python 3.6 on this machine: the moves have NOT run on it. ***'
	@test -z "$(REQUIRE_PYTHON36)"
endif

# FAULTS=5000: so many cases; CASE=seed: that run alone; WITHIN=900: none is begun after so many seconds; DOCS=1: the table goes into
# docs/reliability.md. The moment of a few cases does not come, so it is a few more than 300.
FAULTS ?= 320
test-faults: .venv/ready
	$(PYTHON) -m tests.faults $(if $(CASE),--case $(CASE),--cases $(FAULTS) $(if $(WITHIN),--within $(WITHIN)) $(if $(DOCS),--docs))

# On a real kernel's storage, inside a small Debian under emulation, whose image is built the first time. ALL=1: every pair of types of SR,
# into docs/storage-pairs.md. From lvm to nfs and back is among the faults (test_storage_faults.py).
PAIRS ?= nfs-lvmohba lvmoiscsi-ext
test-storage: .venv/ready
	@tools/packages.sh storage
	$(if $(ALL),$(PYTHON) -m lab.storage_guest.pairs,$(PYTHON) -m lab.storage_guest --storage --bound 3300 \
	    --set SXM_PAIRS="$(PAIRS)" -- python3 -m pytest -v -p no:cacheprovider tests/storage)

# The manual page of `sxm`.
man: .venv/ready
	@mkdir -p build/man && $(PYTHON) tools/man_page.py > build/man/sxm.1 && echo build/man/sxm.1

# docs/walkthrough.md and its pictures, anew, from a lab.
walkthrough: .venv/ready
	@tools/packages.sh report
	@$(PYTHON) -m tools.walkthrough

rpm: packages
	@rpm/build.sh

# Speed beside the peers, half an hour: on an idle machine. TAPDISK=<path of a built one>: over the real tapdisk. docs/performance.md tells
# how it is measured; bench-docs puts the figures of the last run there. bench-quick: small, for its sanity and not for its figures.
bench: build/bench/venv/ready
	$(PYTHON) -m bench $(BENCH)

bench-quick: build/bench/venv/ready
	$(PYTHON) -m bench --quick $(BENCH)

bench-docs: build/bench/venv/ready
	@$(PYTHON) -m bench render

packages:
	@tools/packages.sh

# The stock client of XenAPI on npm, in the versions of its lock file.
build/npm/ready: tests/npm/package.json tests/npm/package-lock.json
	@tools/packages.sh npm
	@mkdir -p build/npm && cp tests/npm/package.json tests/npm/package-lock.json build/npm
	@echo 'Installing xen-api from npm in build/npm'
	@cd build/npm && npm ci --silent --ignore-scripts --no-audit --no-fund
	@touch $@

.venv/ready: requirements.txt | packages
	@echo 'Making a virtual environment in .venv'
	@rm -rf .venv && $$(tools/python3.sh) -m venv .venv
	@.venv/bin/python -m pip install -qq --disable-pip-version-check -r requirements.txt
	@touch $@

# What does not install there, the benches do without, and say so.
build/bench/venv/ready: bench/requirements.txt .venv/ready
	@tools/packages.sh bench
	@echo 'Making a virtual environment in build/bench/venv'
	@rm -rf build/bench/venv && $(PYTHON) -m venv build/bench/venv
	@grep -v '^#' bench/requirements.txt | while read -r wanted; do \
	    build/bench/venv/bin/pip install -qq --disable-pip-version-check "$$wanted" || echo "*** $$wanted could not be installed. ***"; done
	@touch $@

.venv36/ready: requirements-python36.txt
	@rm -rf .venv36 && mkdir .venv36
ifneq ($(PYTHON36),)
	@echo 'Making a virtual environment of Python 3.6 in .venv36'
	@$(PYTHON36) -m venv .venv36
	@.venv36/bin/python -m pip install -qq --disable-pip-version-check pip==21.3.1
	@.venv36/bin/python -m pip install -qq --disable-pip-version-check -r requirements-python36.txt
endif
	@touch $@

.venv39/ready: requirements-python39.txt
	@rm -rf .venv39 && mkdir .venv39
ifneq ($(PYTHON39),)
	@echo 'Making a virtual environment of Python 3.9 in .venv39'
	@$(PYTHON39) -m venv .venv39
	@.venv39/bin/python -m pip install -qq --disable-pip-version-check -r requirements-python39.txt
endif
	@touch $@

clean:
	@if [ -x $(PYTHON) ]; then $(PYTHON) -m lab.pools clean; fi
	rm -rf .venv .venv36 .venv39 build dist *.egg-info .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
