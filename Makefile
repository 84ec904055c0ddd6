# The habits of this project, one command each. `make demo` and `make test` do all the set-up there is.
.DEFAULT_GOAL := help
# What `make chaos` takes; without a seed, it takes a new one and says which.
SEED :=
MINUTES := 30
DATABASE := both
ISOLATION := role
# What `make bench` takes: how often each pair is run, and which cases; all without.
ROUNDS := 5
CASES :=

.PHONY: help demo build dist plugins test check chaos bench check-cargo-component check-deploy clean

# Where cargo builds; a folder outside the clone may be reused.
TARGET := $(or $(CARGO_TARGET_DIR),target)

help: ## Show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-22s %s\n", $$1, $$2}'

demo: build ## Run the main job on bundled real events, without a server
	@$(TARGET)/release/host demo --plugin $(TARGET)/plugins/carrier_delays.wasm --folder $(TARGET)/demo

build: plugins ## Build target/release/host and target/plugins/NAME.wasm
	cargo build --release --locked -p projectionist-host --bin host

dist: plugins ## Build target/dist/host, as it is shipped: faster, and slow to build
	cargo build --profile dist --locked -p projectionist-host --bin host

plugins: ## Build the sample projections for WebAssembly
	@scripts/build-plugins

test: plugins ## Run all tests (starts a Postgres of its own unless DATABASE_URL is set)
	@scripts/ensure-postgres
	@scripts/ensure-chromium
	@scripts/build-plugins tests/plugins
	cargo build --locked -p projectionist-host --bin host
	cargo test --locked --workspace
	cargo test --locked --manifest-path plugins/Cargo.toml --target-dir $(TARGET)/plugins-native

check: ## Formatting, lints and documentation, every warning an error
	cargo fmt --all --check
	cargo fmt --all --check --manifest-path plugins/Cargo.toml
	cargo fmt --all --check --manifest-path tests/plugins/Cargo.toml
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked --manifest-path plugins/Cargo.toml --target-dir $(TARGET)/plugins-native --all-targets -- -D warnings
	cargo clippy --locked --manifest-path tests/plugins/Cargo.toml --target-dir $(TARGET)/plugins-native --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items

chaos: ## Torment hosts at random: make chaos [SEED=number] [MINUTES=30] [DATABASE=postgres|sqlite|both] [ISOLATION=role|login]
	@scripts/ensure-postgres
	@scripts/build-plugins tests/plugins
	cargo build --release --locked -p projectionist-host --bin host
	cargo build --release --locked -p projectionist-tests --bin chaos
	@$(TARGET)/release/chaos SEED=$(SEED) MINUTES=$(MINUTES) DATABASE=$(DATABASE) ISOLATION=$(ISOLATION)

bench: plugins ## Measure the host against loops written by hand: make bench [ROUNDS=5] [CASES="name …"]
	@scripts/ensure-postgres
	@scripts/build-plugins tests/plugins
	cargo build --profile dist --locked -p projectionist-host --bin host
	cargo build --profile dist --locked -p projectionist-bench
	@$(TARGET)/dist/bench rounds=$(ROUNDS) chart=$(if $(CASES),,docs/bench.svg) $(CASES)

check-deploy: ## Read everything in deploy/ with the tools made for it
	@scripts/check-deploy

check-cargo-component: ## Build the sample projections with cargo component, too
	@scripts/check-cargo-component

clean: ## Remove what was built
	rm -rf $(TARGET) plugins/target
