# Two commands: `make up` and `make test`. On a fresh Debian or Ubuntu machine they need nothing but Python >= 3.11.
LXD ?=
PYTHON := .venv/bin/python
# What makes .venv is of one version as well.
UV := 0.13.9
export MAUTIC_OPS_LXD__ENDPOINT := $(or $(LXD),$(MAUTIC_OPS_LXD__ENDPOINT))
# What Python compiles is kept, apart from the sources: the tests start hundreds of processes.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX := $(CURDIR)/.venv/pycache
# What is simulated keeps its state apart from what is real.
ifeq ($(LXD),simulated)
export MAUTIC_OPS_BOT__STATE ?= .state/simulated
endif
ifeq ($(MAUTIC_OPS_LXD__ENDPOINT),)
unexport MAUTIC_OPS_LXD__ENDPOINT
endif

up: .venv
	$(PYTHON) -m bot up

# What the bot works with (LXD, blueprint, edge), and no bot.
prepare: .venv
	$(PYTHON) -m bot prepare

down: .venv
	$(PYTHON) -m bot down

clean-lab: .venv
	$(PYTHON) -m bot clean-lab

# What the suite, the bench and the lab start, installed where it is missing; `tests/support/packages.py` is the list.
packages: .venv
	$(PYTHON) -m tests.support.packages $(REQUIRED)
lab hostile bench bench-density: REQUIRED = --required
# The run that every process of it belongs to: this make, so that the next one ends what is left when it is killed.
test long hostile bench bench-density: export MAUTIC_OPS_TEST_RUN = $(shell echo $$PPID)
# `make bench ARCHIVE=… SHA256=…` measures with a real Mautic's release.
bench bench-density: export MAUTIC_OPS_TEST_ARCHIVE = $(if $(findstring ://,$(ARCHIVE)),$(ARCHIVE),$(abspath $(ARCHIVE)))
bench bench-density: export MAUTIC_OPS_TEST_SHA256 = $(SHA256)
# Beside it `TO=… TO_SHA256=…`: the release that an upgrade from it is measured to.
bench: export MAUTIC_OPS_TEST_TO = $(if $(findstring ://,$(TO)),$(TO),$(and $(TO),$(abspath $(TO))))
bench: export MAUTIC_OPS_TEST_TO_SHA256 = $(TO_SHA256)

# A cluster of three and two servers that stand alone, on this machine.
lab: packages
	$(PYTHON) -m tests.support.lab up

lab-down: .venv
	$(PYTHON) -m tests.support.lab down

# What shares the lab takes longest, and waits most: it goes beside all else, and its words come last. Of the others first
# what can run side by side, then what shares one edge, in two halves with a server each; Debian is put together meanwhile.
test: packages
	$(PYTHON) -m tests.support.base >/dev/null 2>&1 &
	logs=$$(mktemp -d); trap "rm -r $$logs" EXIT; \
	  $(PYTHON) -m pytest --durations 10 -m "lab and not long" >$$logs/lab 2>&1 & lab=$$!; \
	  $(PYTHON) -m pytest -n 4 --dist loadfile --no-loadscope-reorder -m "not edge and not lab and not long"; quick=$$?; \
	  MAUTIC_OPS_TEST_BESIDE=1 $(PYTHON) -m pytest --durations 10 -m "edge and not long" tests/lab tests/hostile >$$logs/beside 2>&1 & beside=$$!; \
	  $(PYTHON) -m pytest --durations 10 -m "edge and not long" --ignore tests/lab --ignore tests/hostile; edge=$$?; \
	  wait $$beside; beside=$$?; wait $$lab; lab=$$?; cat $$logs/beside $$logs/lab; \
	  echo "Exit codes: $$quick of what runs side by side, $$edge and $$beside of the edge's halves, $$lab of the lab"; \
	  test $$quick$$edge$$beside$$lab = 0000

# What needs no LXD of its own, in some minutes.
quick: packages
	$(PYTHON) -m pytest -n 4 --dist loadfile --no-loadscope-reorder -m "not edge and not lab and not long"

# What is posted, as it is now: look at the difference before it is committed.
goldens: .venv
	UPDATE_GOLDEN=1 $(PYTHON) -m pytest -q tests/messages

# What takes minutes: an upgrade killed at each step, a rollout of twelve, another Debian under a tenant, a wide search.
long: packages
	REQUIRE_LXD=1 $(PYTHON) -m pytest --durations 10 -m long

# Tenants whose root is against us, on a real server.
hostile: packages
	REQUIRE_LXD=1 $(PYTHON) -m pytest --durations 10 tests/hostile

# New examples for the tests that have properties: what is found here becomes a test of its own.
search: packages
	$(PYTHON) -m pytest -q -n 2 --hypothesis-profile search -m "not edge and not lab and not long" $$(grep -rl '@given' tests --include 'test_*.py')

demo: .venv
	$(PYTHON) -m tests.support.demo

bench: packages
	REQUIRE_LXD=1 $(PYTHON) -m pytest -q -s -p no:cacheprovider tests/bench/run.py

# N tenants by one approval, minutes of peace, and a reboot of LXD with all of them; ARCHIVE and SHA256 as above.
bench-density: export N ?= 60
bench-density: export PEACE_MINUTES ?= 15
bench-density: packages
	REQUIRE_LXD=1 $(PYTHON) -m pytest -q -s -p no:cacheprovider tests/bench/density.py

# The suite's quick part with the lowest versions that pyproject.toml allows.
lowest: packages
	$(PYTHON) -m tests.support.lowest

docs: .venv
	$(PYTHON) -m bot docs

lint: .venv
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	.venv/bin/lint-imports

# uv makes .venv exactly what uv.lock says; it is installed into .venv itself, so that nothing else changes here.
.venv: .venv/whole
.venv/whole: uv.lock pyproject.toml
	@python3 -m bot.lxd.packages
	@.venv/bin/uv --version 2>/dev/null | grep -q '^uv $(UV) ' || { python3 -m venv .venv && .venv/bin/pip install -q uv==$(UV); }
	.venv/bin/uv sync -q --locked --inexact --all-extras
	@touch .venv/whole

.PHONY: .venv packages up prepare down clean-lab lab lab-down test quick goldens long hostile search demo bench bench-density lowest docs lint
