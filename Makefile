# keysmith. `make help` lists the targets.
#
# The crate is built with plain cargo; cargo-pgrx works too, and is not needed.

SHELL := /bin/bash
CARGO ?= cargo
export PG_CONFIG

# The pg_config to build against, found when it is first needed: setup may have to
# install it. Before its version 4.4, make exports nothing to these commands.
pg_config = $(shell export PG_CONFIG='$(PG_CONFIG)'; source scripts/common.sh; find_pg_config)
pg_major  = $(shell source scripts/common.sh; major "$(pg_config)")
supported = $(shell source scripts/common.sh; supported)

BUILD  = $(or $(CARGO_TARGET_DIR),target)/release
# The same library from any folder: panics name their source file, and the linker's id depends on
# names that do. The clone's path is in no name, and not among the flags: clones can share a build
# folder.
reproducible = -Clink-arg=-Wl,--build-id=none --remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=/cargo \
    --remap-path-prefix=$(abspath $(or $(CARGO_TARGET_DIR),target))=/target
export RUSTFLAGS := $(strip $(filter-out $(reproducible),$(RUSTFLAGS)) $(reproducible))

VENV   = $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)/venv
BENCH_VENV = $(VENV)-bench
SCRIPT = sql/keysmith--$(shell sed -nE "s/^default_version = '(.*)'/\1/p" keysmith.control).sql
# Each test runner has a private cluster; tests wait a lot, for workers and for clocks.
TEST_JOBS ?= $(shell expr $$(nproc) + 1)
SMOKE = $(patsubst %,tests/test_%.py,installcheck verify lifecycle isolation usage_pipeline standby newer_postgres upgrade pg_upgrade image_volume)
cargo  = PGRX_PG_CONFIG_PATH=$(pg_config) $(CARGO) $(1) --release --no-default-features --features pg$(pg_major)

.DEFAULT_GOAL := help
.PHONY: help setup all build script check-script install uninstall deb deb-twice image-layout dist release-check \
        demo portal portal-pictures stop psql test test-core test-server test-browser test-node test-majors smoke stranger installcheck lint clippy deny bench \
        bench-capacity bench-clients bench-drain bench-instructions bench-isolation bench-ledger bench-logged bench-round-trip bench-row-ledger \
        bench-rows bench-serve bench-usage dashboard-picture fuzz fuzz-sql miri valgrind consistency history soak scale \
        failover clean

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "  make %-18s  %s\n", $$1, $$2 }'

setup: ## install the packages that a build needs (Debian, Ubuntu)
	@scripts/setup.sh

# What the PGXN client calls.
all: build

# PostgreSQL's declarations are formatted in the build folder: without our rules, wherever it is.
build: setup ## build the library
	@mkdir -p $(BUILD) && touch $(BUILD)/rustfmt.toml
	$(call cargo,build) --workspace

# Those of released versions never change.
script: build ## write the install script from the library
	$(BUILD)/keysmith-schema $(BUILD)/libkeysmith.so keysmith.control $(BUILD)/script.sql
	@if grep -sq "  $(notdir $(SCRIPT))$$" sql/released.sha256 && ! cmp -s $(BUILD)/script.sql $(SCRIPT); then \
	    echo "$(SCRIPT) is released: scripts/version.py set VERSION begins the next one" >&2; exit 1; fi
	cp $(BUILD)/script.sql $(SCRIPT)

check-script: build
	@$(BUILD)/keysmith-schema $(BUILD)/libkeysmith.so keysmith.control $(BUILD)/script.sql
	@diff -u $(SCRIPT) $(BUILD)/script.sql || \
	    { echo "$(SCRIPT) is stale: run make script, and commit it" >&2; exit 1; }

# A library that a server has open is replaced, not overwritten.
install: build ## build it, and install it into PG_CONFIG's PostgreSQL
	@lib=$(DESTDIR)$$($(pg_config) --pkglibdir) && ext=$(DESTDIR)$$($(pg_config) --sharedir)/extension && \
	source scripts/common.sh && run() { if [ -w "$$1" ] || [ -n "$(DESTDIR)" ]; then "$${@:2}"; else as_root "$${@:2}"; fi; } && \
	mkdir -p "$$lib" "$$ext" 2>/dev/null || true; \
	run "$$lib" install -m 755 $(BUILD)/libkeysmith.so "$$lib/keysmith.so.new" && \
	run "$$lib" mv "$$lib/keysmith.so.new" "$$lib/keysmith.so" && \
	run "$$ext" install -m 644 keysmith.control sql/keysmith--*.sql "$$ext/" && \
	echo "installed into $$lib and $$ext"

image-layout: build ## put the files of an image volume into target/image
	scripts/image-layout.sh $(BUILD)/libkeysmith.so $(pg_major) $(BUILD)/../image/$(pg_major)

# From git, so that it has no file that is not committed, and equal commits give an equal file.
dist: ## pack the committed source for PGXN into target/dist
	@mkdir -p $(BUILD)/../dist
	name=keysmith-$$(scripts/version.py) && TZ=UTC git archive --format=zip -9 --prefix=$$name/ -o $(BUILD)/../dist/$$name.zip HEAD

release-check: setup ## check that this tree can be released; TESTS=1 runs every test too
	@scripts/release.py check
	$(MAKE) --no-print-directory check-script lint $(if $(TESTS),test-majors)

uninstall: ## remove it from PG_CONFIG's PostgreSQL
	@source scripts/common.sh && \
	as_root rm -f "$$($(pg_config) --pkglibdir)/keysmith.so" "$$($(pg_config) --sharedir)/extension/keysmith"{.control,--*.sql}

deb: ## build Debian packages into target/deb, for each PostgreSQL that is installed
	@scripts/setup.sh deb
	@scripts/deb.sh build

deb-twice: ## build the packages from two new clones, and compare them
	@scripts/setup.sh deb
	@scripts/deb_twice.sh

demo: install ## install it, and show a key's life on a private cluster
	@scripts/demo.sh

portal: install $(VENV)/done ## show the page for your customers on the demo's cluster
	@scripts/cluster.sh start
	@set -- $$(scripts/cluster.sh where) && exec $(VENV)/bin/python clients/portal/demo.py --dsn "host=$$2 port=$$4 user=$$6"

portal-pictures: install $(VENV)/done ## draw the pictures of that page
	@scripts/setup.sh browser
	PG_CONFIG=$(pg_config) $(VENV)/bin/python tests/clients/portal_pictures.py

stop: ## end the demo's cluster
	@scripts/cluster.sh stop

psql: ## connect to the demo's cluster
	@$$($(pg_config) --bindir)/psql $$(scripts/cluster.sh where) demo

test: test-core test-server ## run every test
	@core=$$(awk '/^test result:/ { n += $$4 } END { print n }' $(BUILD)/core-tests.log) && \
	read -r server skipped expected _ <$(BUILD)/server-tests.count && \
	echo "$$((core + server)) tests passed: $$core of the rules, $$server with a server." \
	     "$$skipped were skipped, $$expected failed as expected."

test-core: setup ## test the rules that need no server
	@mkdir -p $(BUILD)
	set -o pipefail; $(CARGO) test --release -p keysmith-core | tee $(BUILD)/core-tests.log

test-server: install check-script $(VENV)/done ## test the extension, on private clusters
	$(if $(TESTS),,@scripts/setup.sh curl pgbouncer examples browser monitoring patroni deb stranger)
	$(if $(TESTS),,@VENV=$(VENV) scripts/examples.sh)
	KEYSMITH_TEST_COUNT=$(abspath $(BUILD))/server-tests.count PG_CONFIG=$(pg_config) \
	    $(VENV)/bin/pytest -rs -n $(TEST_JOBS) --dist loadfile $(or $(TESTS),tests)

$(VENV)/done: tests/requirements.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet -r $<
	touch $@

test-browser: install $(VENV)/done ## test the portal in a browser, at every width and in both colour schemes
	@scripts/setup.sh browser
	@VENV=$(VENV) scripts/examples.sh clients
	KEYSMITH_BROWSER=full PG_CONFIG=$(pg_config) $(VENV)/bin/pytest -rs tests/clients/test_portal*.py

test-node: install $(VENV)/done ## test the package for Node.js, with its types
	@scripts/setup.sh examples
	@VENV=$(VENV) scripts/examples.sh clients
	node --test clients/node/test/*.test.js
	PG_CONFIG=$(pg_config) $(VENV)/bin/pytest -rs tests/clients/test_node*.py

test-majors: setup ## run every test on every supported PostgreSQL, or MAJORS="16 18"
	@scripts/test-majors.sh

# On the newest other major: clippy, and the files of tests that depend most on PostgreSQL.
smoke: install ## run some tests on another major, TESTS="...", and pg_upgrade to it
	@MAJORS=$(or $(MAJORS),$(lastword $(filter-out $(pg_major),$(sort $(supported))))) \
	    TESTS="$(or $(TESTS),$(SMOKE))" OLDER=$(pg_config) scripts/test-majors.sh

# Like every extension: against the running server that PGHOST and the other libpq variables name.
installcheck: ## run the regression suites against a running server
	pg_test/run $(pg_config)

lint: setup clippy $(VENV)/done ## check formatting, lints, layers and spelling
	$(CARGO) fmt --all --check
	python3 scripts/check_tests.py
	python3 scripts/check_layers.py
	$(VENV)/bin/codespell
	$(VENV)/bin/hadolint Dockerfile

clippy: setup ## check the code for PG_CONFIG's PostgreSQL
	$(call cargo,clippy) --workspace --all-targets -- -D warnings

deny: ## check licences, advisories and sources of libraries, if cargo-deny is installed
	@command -v cargo-deny >/dev/null || { echo "cargo install --locked cargo-deny" >&2; exit 1; }
	$(CARGO) deny check

# FULL=1 takes hours. ONLY="growth cost" measures some of the charts, RESUME=1 what is missing.
bench: install $(BENCH_VENV)/done benches/frameworks/node_modules/.package-lock.json ## measure the charts of docs/performance.md
	PG_CONFIG=$(pg_config) $(BENCH_VENV)/bin/python benches/run.py --kept $(BUILD)/../bench \
	    $(if $(FULL),--full) $(if $(RESUME),--resume) $(if $(ONLY),--only $(ONLY))

# Packages for comparison: only for benchmarks.
$(BENCH_VENV)/done: benches/frameworks/requirements.txt tests/requirements.txt
	python3 -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/pip install --quiet -r $<
	touch $@

benches/frameworks/node_modules/.package-lock.json: benches/frameworks/package-lock.json
	@scripts/setup.sh node
	cd benches/frameworks && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	touch $@

bench-capacity: install $(VENV)/done ## measure what a rate of requests takes a day
	PG_CONFIG=$(pg_config) $(VENV)/bin/python benches/capacity.py

bench-clients: install $(VENV)/done ## measure what the packages for applications add to a request
	@scripts/setup.sh examples
	@VENV=$(VENV) scripts/examples.sh clients
	PG_CONFIG=$(pg_config) $(VENV)/bin/python benches/clients_python.py
	PG_CONFIG=$(pg_config) $(VENV)/bin/python benches/clients_node.py

bench-drain: install $(VENV)/done ## measure how fast usage is stored
	PG_CONFIG=$(pg_config) $(VENV)/bin/python benches/drain.py

bench-instructions: install $(VENV)/done ## count instructions per call
	@scripts/setup.sh valgrind
	PG_CONFIG=$(pg_config) $(VENV)/bin/python benches/instructions.py

bench-isolation: install $(VENV)/done ## measure row-level security
	PG_CONFIG=$(pg_config) $(VENV)/bin/python benches/isolation.py

bench-ledger: install $(VENV)/done ## compare all counts of mixed requests with their clients; REQUESTS=1000000
	PG_CONFIG=$(pg_config) $(VENV)/bin/python benches/ledger.py --requests $(or $(REQUESTS),1000000)

bench-logged: install $(VENV)/done ## measure what logging costs requests
	PG_CONFIG=$(pg_config) $(VENV)/bin/python benches/logged.py

bench-round-trip: install $(VENV)/done ## count instructions per transaction
	@scripts/setup.sh valgrind
	PG_CONFIG=$(pg_config) $(VENV)/bin/python benches/round_trip.py

bench-row-ledger: install $(VENV)/done ## measure what ledgers of tables cost
	PG_CONFIG=$(pg_config) $(VENV)/bin/python benches/row_ledger.py

bench-rows: install $(VENV)/done ## measure row hashing
	PG_CONFIG=$(pg_config) $(VENV)/bin/python benches/row_hashing.py

bench-serve: install $(VENV)/done ## measure serve beside authenticate_json, and a list of keys
	PG_CONFIG=$(pg_config) $(VENV)/bin/python benches/serve.py

bench-usage: install $(VENV)/done ## measure tracking, and pages of usage; REQUESTS=10000000
	PG_CONFIG=$(pg_config) $(VENV)/bin/python benches/usage.py --requests $(or $(REQUESTS),1000000)

dashboard-picture: install $(VENV)/done ## draw the dashboard of examples/monitoring from a run
	@scripts/setup.sh monitoring
	PG_CONFIG=$(pg_config) $(VENV)/bin/python benches/dashboard.py

fuzz: ## fuzz the parsers of outside bytes, SECONDS=600 a target
	@scripts/fuzz.sh $(or $(SECONDS),600)

fuzz-sql: install $(VENV)/done ## call every function at random, MINUTES=10, SEED=
	PG_CONFIG=$(pg_config) $(VENV)/bin/python fuzz/sql/run.py --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED))

miri: ## interpret the tests of the rules, to find undefined behavior
	@scripts/miri.sh

valgrind: setup $(VENV)/done ## watch the memory of servers in the regression suites, or TESTS="..."
	@VENV=$(VENV) scripts/valgrind.sh $(TESTS)

history: install $(VENV)/done ## check what clients saw under load with faults, SECONDS=60, SEED=
	PG_CONFIG=$(pg_config) $(VENV)/bin/python history/run.py --seconds $(or $(SECONDS),60) $(if $(SEED),--seed $(SEED))

soak: install $(VENV)/done ## run a mixed load for MINUTES=30, and watch memory and counts
	PG_CONFIG=$(pg_config) $(VENV)/bin/python benches/soak.py $(or $(MINUTES),30)

consistency: install $(VENV)/done ## decide while policies change, DECISIONS=20000000 times
	PG_CONFIG=$(pg_config) KEYSMITH_DECISIONS=$(or $(DECISIONS),20000000) $(VENV)/bin/pytest -s tests/test_policy_version.py -k torn

scale: install $(VENV)/done ## drive a primary and two standbys through a failover
	PG_CONFIG=$(pg_config) $(VENV)/bin/python benches/scale.py

failover: install $(VENV)/done ## cause faults of a cluster under Patroni, SECONDS=5, ROUNDS=1, ONLY=
	@scripts/setup.sh patroni
	PG_CONFIG=$(pg_config) $(VENV)/bin/python tests/failover.py --seconds $(or $(SECONDS),5) --rounds $(or $(ROUNDS),1) $(if $(ONLY),--only $(ONLY))

stranger: build $(VENV)/done ## install the package on a new Debian, and show each command
	@scripts/setup.sh deb stranger
	PG_CONFIG=$(pg_config) $(VENV)/bin/pytest -s -q -rs tests/test_stranger.py

clean: stop ## remove build files and the demo's cluster
	@[ ! -L target/cluster ] || rm -rf "$$(readlink -f target/cluster)"
	rm -rf target pg_test/results pg_test/output_iso benches/frameworks/node_modules
	[ -z "$(CARGO_TARGET_DIR)" ] || $(CARGO) clean
