# The front door. Everything works with the system's Python 3.11 to begin with: `make tools` fetches the rest.
PYTHON := python3
VENV := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help tools lab status lab-down test unit preview policy bench bench-xdp lint audit lock clean
# A test looks that none is forgotten.
SHELL_SCRIPTS := .ci/run image/bird-supervisor.sh lab/uml/rootfs/usr/local/sbin/samegate-node

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

tools: ## Have every tool: Debian packages, Python environment, cluster and Pulumi programs
	@$(PYTHON) -m tools ensure

lab: tools ## Bring up the rack in a box, deploy samegate into it, and show what it does
	@$(VENV)/python -m lab up
	@$(VENV)/python -m lab deploy
	@$(VENV)/python -m lab report

status: tools ## Show the machines, sessions, addresses and routes of the lab
	@$(VENV)/python -m lab status

lab-down: tools ## Take the lab away without a trace (the tool cache stays)
	@$(VENV)/python -m lab down

test: tools lint ## Run the linters, then every test; the lab is brought up for it and taken down after
	@$(VENV)/python -m lab up
	@$(VENV)/pytest -m ""

unit: tools ## Run the tests that need no root, cluster or network
	@$(VENV)/pytest

bench: tools ## Measure samegate side by side with others, on a quiet machine; writes .bench/ipvs.json and docs/bench
	@$(VENV)/python -m bench

lint: tools ## Check style, security rules, types, import layers, shell scripts and locks
	@$(VENV)/ruff check .
	@$(VENV)/ruff format --check .
	@shellcheck $(SHELL_SCRIPTS)
	@$(VENV)/mypy
	@$(VENV)/lint-imports --config pyproject.toml
	@$(PYTHON) -m tools lock --check

preview: tools ## Show what a cloud's stack would create, by simulated providers, without an account: make preview STACK=aws
	@test -n "$(STACK)" || { echo 'Say which stack: make preview STACK=aws' >&2; exit 2; }
	@$(VENV)/python -m tests.providers.preview $(STACK)

policy: tools ## Preview a stack with every policy check, and look for secrets in clear text: make policy STACK=onprem
	@test -n "$(STACK)" || { echo 'Say which stack: make policy STACK=onprem' >&2; exit 2; }
	@$(VENV)/python -m policy.check $(STACK)

audit: tools ## Ask the vulnerability service about every locked Python package; says so where it cannot be reached
	@$(PYTHON) -m tools audit

lock: tools ## Write the locks anew from pyproject.toml
	@$(PYTHON) -m tools lock

bench-xdp: tools ## Measure what the XDP program costs per packet, as root; writes .bench/xdp.json
	@$(VENV)/python -m bench.xdp

clean: ## Remove what the linters and tests left, and the Python environment
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .grimp_cache
	find . -name __pycache__ -type d -not -path './.lab/*' -prune -exec rm -rf {} +
