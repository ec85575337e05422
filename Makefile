# `make` lists what there is. Each target installs what it needs, if it is missing, and says so.

SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help deps demo build test test-drivers test-regress compare soak lint docs bench bench-smoke ci

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## install missing Debian packages, by name (sudo if you aren't root)
	@scripts/deps build postgresql test bench

demo: ## a sharded database with sample data on port 6432; options: make demo ARGS="--scale 2 --keep /var/tmp/epfo"
	@scripts/deps build postgresql
	@cargo run --release --package sluice -- demo $(ARGS)

build: ## target/release/sluice
	@scripts/deps build
	cargo build --release --package sluice

test: ## all tests, against real servers
	@scripts/deps build postgresql test nextest
	cargo nextest run --workspace # builds target/debug/sluice as well, with the same features: nothing is compiled twice
	cargo test --workspace --doc --quiet
	@$(MAKE) --no-print-directory test-drivers

test-drivers: ## psycopg, asyncpg, SQLAlchemy, Django and node-postgres, installed below tests/drivers
	@scripts/deps build postgresql test nextest
	@scripts/drivers
	cargo nextest run --workspace --run-ignored only -E 'package(sluice-tests) & test(drivers::)'

test-regress: ## PostgreSQL's own regression tests, directly and through Sluice (fetches their source package)
	@scripts/regress

compare: ## one script against Debian's PgBouncer and against Sluice, and what differs; another one: PGBOUNCER=PATH
	@scripts/deps build postgresql bench nextest
	cargo build --package sluice
	cargo nextest run --package sluice-tests --run-ignored only --no-capture -E 'test(compare::)'

soak: ## sessions against a model, leaks, faults, and the fuzzers, for long: make soak MINUTES=10 (for each part)
	@scripts/deps build postgresql test nextest
	@MINUTES=$(MINUTES) scripts/soak

lint: ## formatting, and clippy without a warning
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- --deny warnings

docs: ## API documentation, without a broken link
	RUSTDOCFLAGS="--deny warnings --allow rustdoc::private_intra_doc_links" cargo doc --workspace --no-deps --document-private-items

bench: ## parts (criterion), then transactions beside PgBouncer into docs/benchmarks.md: half an hour; another one: PGBOUNCER=PATH
	@scripts/deps build postgresql bench
	cargo bench --package sluice-benches
	cargo build --release --package sluice
	cargo run --release --package sluice-benches --bin side-by-side -- $(if $(PGBOUNCER),--pgbouncer $(PGBOUNCER)) --out docs/benchmarks.md

bench-smoke: ## every part once; then a short run beside PgBouncer, which fails if the hot path got much worse
	@scripts/deps build postgresql bench
	cargo bench --package sluice-benches -- --test
	cargo build --release --package sluice
	cargo run --release --package sluice-benches --bin side-by-side -- --quick

ci: ## what CI runs: test, lint, docs, bench-smoke
	@.ci/run
