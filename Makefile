# What people do with this repository; `make` alone lists it. `.ci/run` calls the same targets on a fresh machine.

# The one set of features and packages for everything, so that nothing is compiled twice for a difference nobody wanted.
WHOLE := --workspace --all-features
# Tools that run for seconds, built quickly rather than for speed.
INSTALL := CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off cargo install --locked

.PHONY: help
help: ## List the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

.PHONY: demo
demo: ## Build, serve on embedded defaults with a demo principal, and show decisions.
	cargo run -- demo

.PHONY: release
release: ## Build the binary that is shipped, under target/release.
	cargo build --release --locked $(WHOLE)
	deploy/check-binary target/release/countersign

.PHONY: test
test: test-setup nextest ## Install what the tests need, and run all of them.
	cargo nextest run $(WHOLE)
	cargo test --doc $(WHOLE)

.PHONY: chaos
chaos: test-setup nextest ## Single use under faults at full size: 10,000 tokens in each scenario, 100,000 simulated worlds; a quarter of an hour.
	CHAOS_TOKENS=10000 cargo nextest run $(WHOLE) --test-threads 1 --no-capture -E 'test(/^chaos::/)'
	WORLDS=100000 cargo nextest run $(WHOLE) --no-capture -E 'test(/^app::world::/)'

.PHONY: soak
soak: test-setup nextest ## 20 minutes of load with a fault every 30 seconds: what the service holds does not grow.
	SOAK_SECONDS=1200 cargo nextest run $(WHOLE) --no-capture -E 'test(/^chaos::soak::/)'

.PHONY: signatures
signatures: nextest ## Have both implementations of Ed25519 judge 1,000,000 changed signatures; minutes.
	ED25519_CASES=1000000 cargo nextest run $(WHOLE) --lib --no-capture -E 'test(/^domain::key::ed25519::/)'

.PHONY: test-setup
test-setup: ## Install the gateways, stores and peers that integration tests talk to (Debian, as root).
	tests/setup

.PHONY: lint
lint: lock fmt-check clippy deny ## Check the lock file, formatting, lints, licences and dependencies.

.PHONY: lock
lock: ## Check that Cargo.lock says what Cargo.toml asks for.
	cargo metadata --locked --format-version 1 >/dev/null

.PHONY: fmt-check
fmt-check: ## Check the formatting; `cargo fmt --all` corrects it.
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check

.PHONY: clippy
clippy: ## Lint everything, and the library as clients use it, without the server.
	cargo clippy $(WHOLE) --all-targets -- -D warnings
	cargo clippy --no-default-features --lib -- -D warnings
	cargo clippy --no-default-features --features client-http --lib -- -D warnings

.PHONY: deny
deny: cargo-deny ## Check licences, banned crates and sources, as deny.toml says.
	cargo fetch --locked
	cargo deny --offline check bans licenses sources

# How often `make fuzz` runs each target.
RUNS := 10000000

.PHONY: fuzz
fuzz: cargo-fuzz ## Fuzz each parser that strangers reach, RUNS (10,000,000) executions each: hours.
	fuzz/run $(RUNS)

.PHONY: fuzz-quick
fuzz-quick: cargo-fuzz ## The same for 20,000 executions each, always with the same random numbers: minutes, most of them the build.
	FUZZ_OPTIONS=-seed=1 fuzz/run 20000

.PHONY: bench
bench: test-setup ## Measure decisions against their floors, behind gateways, beside peers, with many principals; minutes.
	cargo bench --bench load

.PHONY: bench-quick
bench-quick: test-setup ## The first two of these with fewer rounds: a minute, for a first look.
	cargo bench --bench load -- --quick

.PHONY: bench-allocations
bench-allocations: ## Count what an allowed decision allocates, against its budget.
	cargo bench --bench allocations

.PHONY: bench-registry
bench-registry: ## Measure the registry with 100,000 principals: adding, starting, memory, and looking up what is not in it.
	cargo bench --bench load -- --registry 100000

.PHONY: deb
deb: cargo-deb ## Build a Debian package, under target/debian.
	deploy/deb/build

.PHONY: docs
docs: mdbook ## Build the book in docs/ into target/book.
	mdbook build docs

.PHONY: docs-update
docs-update: nextest ## Write the references of the book anew, out of the program.
	UPDATE_DOCS=1 cargo nextest run $(WHOLE) --test it -E 'test(/^book::.*_reference_/)'

.PHONY: nextest cargo-deny cargo-deb cargo-fuzz mdbook
nextest:
	@cargo nextest --version >/dev/null 2>&1 || { \
	    echo "cargo-nextest, which runs the tests, is missing: installing it"; $(INSTALL) cargo-nextest; }
mdbook:
	@mdbook --version >/dev/null 2>&1 || { \
	    echo "mdBook, which builds the book, is missing: installing it"; $(INSTALL) mdbook --version '^0.5'; }
cargo-deny:
	@cargo deny --version >/dev/null 2>&1 || { \
	    echo "cargo-deny, which checks the dependencies, is missing: installing it"; $(INSTALL) cargo-deny; } || { \
	    echo "cargo-deny cannot be installed: licences, bans and sources are NOT checked" >&2; exit 1; }
cargo-fuzz:
	@cargo fuzz --version >/dev/null 2>&1 || { \
	    echo "cargo-fuzz, which builds and runs the fuzz targets, is missing: installing it"; $(INSTALL) cargo-fuzz; }
cargo-deb:
	@cargo deb --version >/dev/null 2>&1 || { \
	    echo "cargo-deb, which makes the package, is missing: installing it"; $(INSTALL) cargo-deb; }
