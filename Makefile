# Build, install and check the extension "quota".  `make help` lists the targets.

EXTENSION = quota
# The version is written down in one place.
EXTVERSION := $(shell sed -n "s/^default_version *= *'\(.*\)'.*/\1/p" quota.control)

MODULE_big = quota
OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c)))
PGFILEDESC = "quota - usage quotas decided and recorded in one call"

# Joined in this order into the install script: a part may use what an earlier
# one has created.
SQL_PARTS = types tables functions admin gauges billing recurring gifts plans parents bulk presets monitoring http analytics jobs grants
DATA_built = $(EXTENSION)--$(EXTVERSION).sql

PG_CPPFLAGS = -I$(srcdir)/src
# The server's own headers are not clean under these three.
PG_CFLAGS = -Wextra -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers

# Tests --------------------------------------------------------------------

# Every file in test/sql runs on both engines, the C code and the PL/pgSQL
# reference, and must answer the same; those named here make sense on the C
# code only.
ENGINE_ONLY = books catalog large messages moves oracle permissions rate_calls rate_refunds rates recurring rollovers tables
REGRESS_ALL = $(patsubst test/sql/%.sql,%,$(sort $(wildcard test/sql/*.sql)))
SPECS = $(patsubst test/isolation/specs/%.spec,%,$(sort $(wildcard test/isolation/specs/*.spec)))
UNIT_PROGRAMS = $(patsubst test/unit/%.c,output/unit/%,$(sort $(wildcard test/unit/*.c)))
# What the unit tests are linked with: the code that knows nothing of PostgreSQL.
UNIT_SOURCES = src/decision.c src/rate.c

# Run a subset: make check-regress ONLY="periods bonuses"; make check-tap PROVE_TESTS=test/t/002_x.pl
ONLY ?=
only = $(if $(ONLY),$(filter $(ONLY),$(1)),$(1))
PROVE_TESTS ?= test/t/*.pl
PGTAP_TESTS ?= test/pgtap/*.sql
PROVE_FLAGS ?= --timer

EXTRA_CLEAN = output tmp_check $(EXTENSION)--*.sql.tmp $(EXTENSION)-*.zip
NO_INSTALLCHECK = 1

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

##@ Build

all: ## Build the library and the install script

install: ## Install both into the server that PG_CONFIG belongs to (DESTDIR is honoured)

clean: ## Remove what was built and what tests left behind

# Few and small: any header rebuilds everything.
$(OBJS): $(wildcard src/*.h)

$(EXTENSION)--$(EXTVERSION).sql: $(SQL_PARTS:%=sql/%.sql) $(EXTENSION).control
	@{ printf '%s\n' '\echo Use "CREATE EXTENSION $(EXTENSION)" to load this file. \quit'; \
	   for part in $(SQL_PARTS); do printf '\n'; cat sql/$$part.sql; done; } > $@.tmp
	@mv $@.tmp $@

##@ Test (against the running server that PGHOST and PGPORT name; scripts/test brings its own)

installcheck: check-regress check-reference check-isolation check-tap check-pgtap ## All checks that need a server

# $(call database,NAME,SETUP): an empty database of its own for each run, with
# what test/setup/SETUP.sql puts into it.
quiet = PGOPTIONS='-c client_min_messages=warning' $(bindir)/
define database
@$(quiet)dropdb --if-exists quota_$(1)
@$(quiet)createdb --template=template0 --encoding=UTF8 --locale=C quota_$(1)
@$(quiet)psql -X -q -v ON_ERROR_STOP=1 -d quota_$(1) -f test/setup/$(2).sql
@mkdir -p output/$(1)
endef

check-regress: ## test/sql on the C code
	$(call database,engine,engine)
	$(pg_regress_installcheck) --inputdir=test --outputdir=output/engine \
		--use-existing --dbname=quota_engine $(call only,$(REGRESS_ALL))

check-reference: ## The same files, the same answers, on the PL/pgSQL reference
	$(call database,reference,reference)
	$(pg_regress_installcheck) --inputdir=test --outputdir=output/reference \
		--use-existing --dbname=quota_reference \
		$(call only,$(filter-out $(ENGINE_ONLY),$(REGRESS_ALL)))

check-isolation: ## test/isolation: one spec for each race
	$(call database,isolation,engine)
	$(pg_isolation_regress_installcheck) --inputdir=test/isolation --outputdir=output/isolation \
		--use-existing --dbname=quota_isolation $(call only,$(SPECS))

check-tap: ## test/t: load, crash, dump, standby, pooler, scripts; starts servers of its own
	$(prove_installcheck)

check-pgtap: ## test/pgtap: the contract, with pg_prove
	$(call database,pgtap,pgtap)
	pg_prove --psql-bin $(bindir)/psql --dbname quota_pgtap --timer $(PGTAP_TESTS)

check-unit: $(UNIT_PROGRAMS) ## test/unit: the pure code alone, needs no server
	@for program in $(UNIT_PROGRAMS); do \
		if $$program; then echo "$${program##*/} ... ok"; else echo "$${program##*/} ... FAILED"; failed=1; fi; \
	done; test -z "$$failed"

# An overflow or a bad shift ends the program, where the compiler can tell.
UNIT_CFLAGS = -g -O1 -Wall -Wextra $(shell echo 'int main(void) { return 0; }' | \
	$(CC) -fsanitize=undefined -x c - -o /dev/null 2>/dev/null && \
	echo -fsanitize=undefined -fno-sanitize-recover=all)

output/unit/%: test/unit/%.c $(UNIT_SOURCES) $(wildcard src/*.h test/unit/*.h)
	@mkdir -p $(@D)
	$(CC) $(UNIT_CFLAGS) -I$(srcdir)/src -o $@ $< $(UNIT_SOURCES) -lm

bench: ## The measured comparisons of docs/benchmarks.md
	bench/run

##@ Maintain

checkver: ## quota.control, META.json and CHANGELOG.md name the same version
	@grep -q '^## $(EXTVERSION)\( \|$$\)' CHANGELOG.md || \
		{ echo "CHANGELOG.md has no section for $(EXTVERSION)"; exit 1; }
	@if sed -n 's/^\t*"version": "\(.*\)".*/\1/p' META.json | grep -vxF '$(EXTVERSION)'; then \
		echo "META.json names another version than $(EXTVERSION)"; exit 1; fi
	@echo "$(EXTVERSION) everywhere"

dist: checkver ## Pack the committed tree into quota-VERSION.zip
	git archive --format=zip --prefix=$(EXTENSION)-$(EXTVERSION)/ -o $(EXTENSION)-$(EXTVERSION).zip HEAD

format: ## Lay out the lines changed since the last commit by .clang-format
	git clang-format --extensions c,h

help: ## This list
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  %-17s %s\n", $$1, $$2 }' Makefile

.PHONY: installcheck check-regress check-reference check-isolation check-tap check-pgtap \
	check-unit bench checkver dist format help
