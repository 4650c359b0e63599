# `make` alone says what there is.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON := .venv/bin/python

.PHONY: help setup demo test test-full lint requirements clean

help: ## This list
	@echo "OneScan: one CT scan in, seven cancer answers out."
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / {sub("%", "NAME", $$1); printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install what is missing: Debian packages, virtual environment, Python packages
	@scripts/setup

demo: ## The main job, end to end; ONCE=1: stop after one study; STUDY=/folder: your own study
	@scripts/setup runtime
	@exec $(PYTHON) -m deploy.demo $(if $(filter-out 0,$(ONCE)),--once) $(if $(STUDY),--study "$(STUDY)")

test: ## Style, types, import contracts, and all tests but the slow ones
	@scripts/test

test-full: ## The same with the slow tests
	@scripts/test --full

lint: ## Style, types and import contracts only
	@ONESCAN_ONLY_LINT=1 scripts/test

bench-%: ## A benchmark of bench/, such as bench-demo
	@scripts/setup dev
	@test -f bench/$*.py || { echo "There is no bench/$*.py. There are: $(notdir $(basename $(wildcard bench/*.py)))"; exit 2; }
	@exec $(PYTHON) -m bench.$* $(ARGS)

requirements: ## Pin and hash the dependencies of pyproject.toml anew
	@scripts/lock

clean: ## Remove what demo, tests and benchmarks made (not the virtual environments)
	@[ ! -x $(PYTHON) ] || $(PYTHON) -m deploy.embedded.postgres var
	@rm -rf var build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.* htmlcov
