# Everything that a user or a developer runs. `make` alone lists it.

BIN := .venv/bin
ARGS :=

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-full test-kubernetes lab lab-setup bench soak lint requirements verify clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo '  PYTHON=/path/to/python3 chooses the interpreter (3.11 to 3.13); the default is the system'\''s own.'
	@echo '  ARGS="..." is handed on to the demo or to pytest.'

setup: ## Install what the driver needs into .venv; nothing to do when it is up to date
	@tools/setup.sh runtime

demo: setup ## Walk a volume through its whole life on this machine
	@$(BIN)/cinder-csi demo $(ARGS)

test: lint ## Run what every change must pass: lint, then all tests, csi-sanity included
	@$(BIN)/pytest $(ARGS)

test-full: lint ## Run every test, also those that take minutes
	-@$(BIN)/python -m tests.cluster.binaries
	@$(BIN)/pytest -m 'not lab' $(ARGS)

test-kubernetes: ## Run the tests against a real Kubernetes API server, built with Go into the user's cache
	@tools/setup.sh dev
	@$(BIN)/python -m tests.cluster.binaries
	@$(BIN)/pytest -m 'kubernetes and not full' tests/cluster $(ARGS)

lab: ## Run the tests on real storage; see docs/lab.md
	@tools/setup.sh dev
	@tools/lab/setup.sh --check
	@$(BIN)/pytest -m 'lab and not full' tests/lab $(ARGS)

lab-setup: ## Install what `make lab` needs (Debian packages, as root; into the user's cache)
	@tools/lab/setup.sh

bench: setup ## Measure speed and memory; ARGS=--write keeps them in docs/performance.md
	@$(BIN)/python -m tests.bench $(ARGS)

soak: ## Make 100,000 calls and see that nothing grows; ARGS="--operations 20000 --minutes 5"
	@tools/setup.sh dev
	@$(BIN)/python -m tests.soak $(ARGS)

lint: ## Check style, types and import contracts
	@tools/setup.sh dev
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/uv pip check --quiet --python $(BIN)/python

requirements: ## Pin the dependencies of pyproject.toml anew
	@tools/setup.sh dev
	@tools/requirements.sh

verify: ## Check that generated files are current
	@tools/setup.sh dev
	@tools/requirements.sh --check
	@$(BIN)/python tools/generate_docs.py --check
	@$(BIN)/python -m tools.generate_manifests --check

clean: ## Remove everything that the other targets made
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis \
		csi_driver/rpc/_generated/*_pb2*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
