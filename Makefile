# `make` alone says what there is.
.DEFAULT_GOAL := help
PYTHON := .venv/bin/python

.PHONY: help setup demo test test-full lint clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install what is missing: Debian packages, virtual environment, Python packages
	@scripts/setup

demo: ## The main job, end to end; ONCE=1 stops after one study, STUDY=/folder takes yours
	@scripts/setup runtime
	@$(PYTHON) -m deploy.demo $(if $(ONCE),--once) $(if $(STUDY),--study "$(STUDY)")
