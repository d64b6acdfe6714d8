# Two commands: `make up` and `make test`. On a fresh Debian or Ubuntu machine they need nothing but Python >= 3.11.
LXD ?=
PYTHON := .venv/bin/python
export MAUTIC_OPS_LXD__ENDPOINT := $(or $(LXD),$(MAUTIC_OPS_LXD__ENDPOINT))
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

# A cluster of three and two servers that stand alone, on this machine.
lab: .venv
	$(PYTHON) -m tests.support.lab up

lab-down: .venv
	$(PYTHON) -m tests.support.lab down

# First what can run side by side; then what shares one edge, beside what shares the lab, whose words come last.
test: .venv
	$(PYTHON) -m pytest -n 2 --dist loadfile --ignore tests/lab --ignore tests/e2e
	@mkdir -p .state
	$(PYTHON) -m pytest --durations 10 -m lab tests/lab >.state/lab-tests.log 2>&1 & lab=$$!; \
	  $(PYTHON) -m pytest --durations 10 -m "not lab" tests/lab tests/e2e; edge=$$?; \
	  wait $$lab; lab=$$?; cat .state/lab-tests.log; test $$edge$$lab = 00

demo: .venv
	$(PYTHON) -m tests.support.demo

bench: .venv
	REQUIRE_LXD=1 $(PYTHON) -m pytest -q -s -p no:cacheprovider tests/bench/run.py

docs: .venv
	$(PYTHON) -m bot docs

lint: .venv
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	.venv/bin/lint-imports

# uv makes .venv exactly what uv.lock says; it is installed into .venv itself, so that nothing else changes here.
.venv: uv.lock pyproject.toml
	@python3 -m venv --help >/dev/null 2>&1 && python3 -c 'import ensurepip' 2>/dev/null \
	  || { [ "$$(id -u)" = 0 ] && apt-get install -qq -y python3-venv; }
	test -x .venv/bin/uv || { python3 -m venv .venv && .venv/bin/pip install -q 'uv>=0.5'; }
	.venv/bin/uv sync -q --locked --inexact
	@touch .venv

.PHONY: up prepare down clean-lab lab lab-down test demo bench docs lint
