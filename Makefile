# Everything happens in .venv; nothing is installed outside this folder.
#
#   PYTHON            the Python that .venv is made from, 3.11 or newer (default: python3)
#   UV_TORCH_BACKEND  the build of PyTorch: cpu (small, no GPU), cu130 (or another CUDA version), auto (what this machine has).
#                     Unset, it is what .venv has; in a new .venv, what the package index gives (on Linux a CUDA build).

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test lint docs audit clean torch-backend-changed

PYTHON ?= python3
VENV_PYTHON := .venv/bin/python
UV := $(if $(shell uv --version 2>/dev/null),uv,.uv/bin/uv)
INSTALLED := .venv/.installed

# The stamp holds the build of PyTorch that was asked for, and is out of date when another one is asked for.
installed_backend := $(shell cat $(INSTALLED) 2>/dev/null)
backend := $(or $(UV_TORCH_BACKEND),$(installed_backend),default)
ifneq ($(backend),default)
export UV_TORCH_BACKEND := $(backend)
endif
new_torch := $(if $(filter $(backend),$(installed_backend)),,--reinstall-package torch --reinstall-package torchvision)

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

install: $(INSTALLED)  ## set up .venv with every version as in constraints.txt; does nothing where it is up to date
	@$(VENV_PYTHON) -c "from importlib.metadata import version; from platform import python_version as python; \
	print(f'found .venv: reconwatch {version(\"reconwatch\")}, torch {version(\"torch\")}, Python {python()}')"

demo: install  ## run the main job on real images that come with a dependency, offline
	@.venv/bin/reconwatch demo

test: install  ## run all tests
	$(VENV_PYTHON) -m pytest -n 2 --dist loadfile

lint: install  ## check style, format and types
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

docs: install  ## build the documentation into site/, warnings as errors
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

audit: install  ## look for known faults of the versions in constraints.txt; without a network it says that it could not
	@out=$$($(UV) tool run pip-audit --disable-pip --no-deps --requirement constraints.txt 2>&1); code=$$?; \
	unknown=$$(echo "$$out" | grep -c "could not be audited"); all=$$(grep -c == constraints.txt); \
	if echo "$$out" | grep -q "^Found [0-9]* known vulnerabilit"; then echo "$$out" | grep -v "could not be audited"; exit 1; \
	elif [ $$code != 0 ] || [ "$$unknown" = "$$all" ]; then echo "NOT AUDITED: pip-audit or its advisories cannot be reached"; \
	else echo "$$all versions audited but for $$unknown that the advisories do not know; no known fault"; fi

clean:  ## remove everything that was built, .venv included
	rm -rf .venv .uv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist site

define check_python
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	found=$$($(PYTHON) --version 2>/dev/null) || found="not there"; \
	echo "reconwatch needs Python 3.11 or newer, and $(PYTHON) is $$found: name another, as in 'make install PYTHON=python3.12'" >&2; exit 1; }
endef

# uv links packages from its cache; between two file systems it can only copy, and would warn of that.
$(INSTALLED): pyproject.toml constraints.txt $(if $(new_torch),torch-backend-changed) | $(filter .uv/%,$(UV))
	$(check_python)
	@test -x $(VENV_PYTHON) || $(UV) venv --quiet --clear --python "$(PYTHON)" .venv
	@cache=$$($(UV) cache dir) && mkdir -p "$$cache" && \
	if [ "$$(df -P "$$cache" | awk 'END { print $$NF }')" != "$$(df -P . | awk 'END { print $$NF }')" ]; then \
		export UV_LINK_MODE="$${UV_LINK_MODE:-copy}"; \
	fi && \
	$(UV) pip install --python $(VENV_PYTHON) --constraints constraints.txt --build-constraints constraints.txt \
		$(new_torch) --compile-bytecode --editable '.[dev,docs,servers]'
	@echo "$(backend)" > $@

# Only where there is no uv: into this folder, so that the system's Python stays as it is (some refuse anything else).
.uv/bin/uv:
	$(check_python)
	@echo "uv was not found: putting it into .uv"
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --target .uv uv 2>/dev/null || \
	{ $(PYTHON) -m venv .uv && .uv/bin/python -m pip install --quiet uv; } || \
	{ echo "uv could not be installed with $(PYTHON): install it by hand (https://docs.astral.sh/uv) and run make again" >&2; exit 1; }
