PYTHON ?= python3
# cpu or gpu: which ONNX Runtime the environment gets.
EXTRA ?= cpu
BIN := .venv/bin
RUNTIME := .venv/.runtime-$(EXTRA)
DEV := .venv/.dev
PROTO := .venv-proto/.ready
NODE := .venv-node/.ready
SUPPLY := .venv-supply/.ready
ADAPTERS := .venv-adapters/.ready
PROTOS := shared_proto/inference.proto shared_proto/compositing.proto shared_proto/monolithic.proto shared_proto/optimized_lipsyncsrv.proto
PACKAGES := avatar_kit avatar_tools benchmarks compositing_service gateway_service inference_service lipsync_cli lipsync_client monolithic_service service_kit shared_proto tools

.PHONY: setup demo run check test test-slow test-all test-torch test-adapters lint-adapters test-docker faults fuzz soak up down bench lint proto client docs page-image audit sbom licences clean

setup: $(RUNTIME)

# pip would end with its words about one of a hundred packages.
OLD_PYTHON = error: Python 3.11 or newer is needed, and $(PYTHON) is %d.%d: make $(MAKECMDGOALS) PYTHON=python3.11

$(RUNTIME): pyproject.toml requirements/$(EXTRA).txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v < (3, 11) and sys.exit("$(OLD_PYTHON)" % v)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --require-hashes -r requirements/$(EXTRA).txt
	$(BIN)/pip install --quiet --no-deps -e .
	touch $@

# Here and below, what is never imported is not compiled: that takes longer than to unpack it.
$(DEV): $(RUNTIME) requirements/dev.txt
	$(BIN)/pip install --quiet --no-compile --require-hashes -r requirements/dev.txt
	touch $@

# Sound in, a talking person out: out/demo.mp4 and out/demo.png.
demo: $(RUNTIME)
	$(BIN)/lipsync demo --models-root models --out-dir out

# Both services in one process on their default ports, until Ctrl-C.
run: $(RUNTIME)
	@test -d models/demo || $(BIN)/lipsync avatar demo --models-root models
	@exec $(BIN)/lipsync serve all

# Many tests wait for processes or for the clock, so two run beside those that keep the cores busy.
WORKERS ?= $(shell expr $$(nproc) + 2)
# AGAIN=1: those that failed last, alone, with nothing beside them.
LAST_FAILED = --last-failed --last-failed-no-failures none
PYTEST = $(BIN)/python -m pytest $(if $(AGAIN),-n 0 $(LAST_FAILED),-n $(WORKERS) --dist worksteal)
# The tests start hundreds of processes: none compiles what another has compiled.
unexport PYTHONDONTWRITEBYTECODE

# For between two edits: under a minute. Few of its tests wait, and each process collects all of them.
check: WORKERS = $(shell expr $$(nproc) + 1)
check: lint
	$(PYTEST) --quick -m "not slow and not gpu and not docker and not torch"

test: $(DEV) $(PROTO) $(NODE)
	$(PYTEST) -m "not slow and not gpu and not docker"

test-slow: $(DEV) $(SUPPLY)
	$(PYTEST) -m "slow and not gpu and not docker"

# Both of these in one go, in which some wait while others compute.
test-all: $(DEV) $(PROTO) $(NODE) $(SUPPLY)
	$(PYTEST) -m "not gpu and not docker and not torch"

# What is compared with PyTorch, which only converting checkpoints needs. It has a folder of its own, so that the other tests go
# without it, also while it is installed. Its wheel of some indexes brings CUDA, gigabytes of it: TORCH=... names another.
TORCH ?= torch==2.13.0
TORCH_FOLDER := .venv/torch

$(TORCH_FOLDER)/.ready: | $(DEV)
	$(BIN)/pip install --quiet --no-compile --target $(TORCH_FOLDER) $(TORCH)
	touch $@

test-torch: $(DEV) $(TORCH_FOLDER)/.ready
	PYTHONPATH=$(CURDIR)/$(TORCH_FOLDER) $(PYTEST) -m torch -o cache_dir=.pytest_cache/torch

# Pipecat and LiveKit have an environment of their own: a hundred packages that nothing else needs, and Pipecat wants protobuf below
# 7. The services that their tests talk to run in the usual one.
ADAPTERS_BIN := .venv-adapters/bin
ADAPTER_PROJECTS := lipsync_adapters/pipecat-lipsync lipsync_adapters/livekit-plugins-lipsync

$(ADAPTERS): requirements/adapters.txt $(ADAPTER_PROJECTS:%=%/pyproject.toml)
	$(PYTHON) -m venv .venv-adapters
	$(ADAPTERS_BIN)/pip install --quiet --no-compile --require-hashes -r requirements/adapters.txt
	$(ADAPTERS_BIN)/pip install --quiet --no-deps -e . $(ADAPTER_PROJECTS:%=-e %)
	touch $@

test-adapters: $(DEV) $(ADAPTERS) lint-adapters
	SERVICES_PYTHON=$(CURDIR)/$(BIN)/python $(PYTEST:$(BIN)/%=$(ADAPTERS_BIN)/%) -o cache_dir=.pytest_cache/adapters tests/lipsync_adapters

lint-adapters: $(ADAPTERS)
	MYPYPATH=lipsync_adapters/pipecat-lipsync:lipsync_adapters/livekit-plugins-lipsync \
	  $(ADAPTERS_BIN)/mypy -p lipsync_adapters.livekit -p pipecat_lipsync -p livekit.plugins.lipsync \
	  -m benchmarks.adapter_sessions.pipecat_session -m benchmarks.adapter_sessions.livekit_session

# The tests of each fault and each attack that are known (tests/faults/table.toml), as a table.
faults: $(DEV)
	$(BIN)/python -m tests.faults.table -n $(WORKERS) --dist worksteal -m "not gpu"

# Requests and frames changed at random, for SECONDS of each; the tests do so for some seconds. SEED=... for other changes.
SEED ?= $(shell date +%s)
fuzz: $(DEV)
	FUZZ_SECONDS=$(or $(SECONDS),300) FUZZ_SEED=$(SEED) $(BIN)/python -m pytest -n 0 -o timeout=0 tests/faults/test_fuzzed_calls.py

# Services under mixed load for SECONDS, ten minutes unless it is given: what they take must not grow.
soak: $(DEV)
	$(BIN)/python -m tests.faults.soak --seconds $(or $(SECONDS),600)

# Builds the images and runs them. As root it installs the engine where there is none, and starts one where none runs; without an
# engine it fails.
test-docker: WORKERS = 0
test-docker: $(DEV)
	REQUIRE_DOCKER=1 $(PYTEST) -m docker -o cache_dir=.pytest_cache/docker

# In containers: inference, compositing, gateway and the balancer on ports 50052 and 8086. DEVICE=cpu where there is no GPU.
DEVICE ?= gpu
COMPOSE ?= docker-compose
COMPOSE_FILES := -f docker-compose.yml -f $(if $(filter cpu,$(DEVICE)),deploy/compose/cpu.yml,docker-compose.override.yml)

up:
	$(COMPOSE) $(COMPOSE_FILES) up -d --build

down:
	$(COMPOSE) $(COMPOSE_FILES) --profile monitoring down

bench: $(DEV)
	mkdir -p out
	$(BIN)/lipsync bench --json out/bench.json

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(PACKAGES:%=-p %)

# Code from the .proto files, into the tree. A test fails when it is out of date. In an environment of its own: code made with
# protobuf 6.33 runs with that and with 7.
PROTO_BIN := .venv-proto/bin
OUT ?= .

$(PROTO): requirements/proto.txt
	$(PYTHON) -m venv .venv-proto
	$(PROTO_BIN)/pip install --quiet --no-compile --require-hashes -r requirements/proto.txt
	touch $@

proto: $(PROTO)
	$(PROTO_BIN)/python -m grpc_tools.protoc -I. --python_out=$(OUT) --grpc_python_out=$(OUT) \
	  --plugin=protoc-gen-mypy=$(PROTO_BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(PROTO_BIN)/protoc-gen-mypy_grpc \
	  --mypy_out=quiet:$(OUT) --mypy_grpc_out=quiet:$(OUT) $(PROTOS)

# What the JavaScript of docs/clients.md needs, where npm is; without it the test of that program is skipped.
$(NODE): tests/docs/node/package-lock.json
	mkdir -p .venv-node
	cp tests/docs/node/package.json tests/docs/node/package-lock.json .venv-node
	if command -v npm > /dev/null; then \
	  npm ci --prefix .venv-node --ignore-scripts --no-audit --no-fund --silent && touch $@; fi

# The client's blocking face, made from its asyncio one. A test fails when it is out of date.
client: $(DEV)
	$(BIN)/python -m tools.blocking_client lipsync_client

# The pages of all configuration keys and of all messages, the tables of a session's states and the drawing of one, made from the
# code. A test fails when one is out of date.
docs: $(DEV)
	$(BIN)/python -m tools.configuration_docs docs/configuration.md
	$(BIN)/python -m tools.message_docs docs/messages.md
	$(BIN)/python -m tools.session_tables docs/sessions.md
	$(BIN)/python -m tools.session_timeline docs/images/session.svg

# Licences, advisories and bills of materials of the pinned packages, by programs in an environment of their own.
SUPPLY_BIN := .venv-supply/bin
IMAGE_PINS := gateway compositing cpu gpu
SBOM ?= out/sbom

$(SUPPLY): requirements/supply.txt
	$(PYTHON) -m venv .venv-supply
	$(SUPPLY_BIN)/pip install --quiet --no-compile --require-hashes -r requirements/supply.txt
	touch $@

# Fails when a source that answers knows an advisory.
audit: $(SUPPLY)
	$(SUPPLY_BIN)/python -m tools.advisories $(IMAGE_PINS:%=requirements/%.txt)

# CycloneDX, one for each image.
sbom: $(SUPPLY)
	mkdir -p $(SBOM)
	for image in $(IMAGE_PINS); do \
	  $(SUPPLY_BIN)/cyclonedx-py requirements requirements/$$image.txt --pyproject pyproject.toml \
	    --output-reproducible --of JSON -o $(SBOM)/$$image.cdx.json || exit 1; done

licences: $(SUPPLY) $(DEV)
	$(SUPPLY_BIN)/python -m tools.licence_list docs/licences.md $(BIN)/python

# The picture of the page in the README, taken by its test.
page-image: $(DEV)
	PAGE_IMAGE=docs/images/page.png $(BIN)/python -m pytest tests/gateway_page/test_screens.py -k 1440-900

clean:
	rm -rf .venv .venv-proto .venv-node .venv-supply .venv-adapters out build *.egg-info
