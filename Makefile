# Every command can be repeated. What each needs it installs into node_modules, the user's cache folder and .data.
run := npm run --silent

.DEFAULT_GOAL := help
.PHONY: help up demo seed down logs test test-rules soak check openapi bench migrate token psql

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: node_modules/.package-lock.json ## Start database, API and worker in the background; print the URL, a token and what to try
	@$(run) up

demo: node_modules/.package-lock.json ## Fill the default org with a history to look at: 30 days of six services
	@$(run) demo

seed: node_modules/.package-lock.json ## Register the six LiftOS services (LIFTOS_HOST=… when not on this machine)
	@$(run) seed

down: node_modules/.package-lock.json ## Stop API, worker and the database that make up started; data stays
	@$(run) down

logs: ## Follow the logs of API and worker
	@mkdir -p .data/logs && touch .data/logs/api.log .data/logs/worker.log && tail -n 50 -F .data/logs/api.log .data/logs/worker.log

test: node_modules/.package-lock.json ## Run the tests (DATABASE_URL=… to run them on another server)
	@$(run) test

test-rules: node_modules/.package-lock.json ## Run unit tests of alert rules: make test-rules FILE=docs/rules.test.yaml
	@$(run) test-rules -- $(FILE)

soak: node_modules/.package-lock.json ## Run the tests at full length: more rounds, more random cases, a day of an open tab
	@$(run) soak

check: node_modules/.package-lock.json ## Types, lint, SQL functions, openapi.json, compose.yaml
	@$(run) check

openapi: node_modules/.package-lock.json ## Rewrite openapi.json from the routes, and format the code
	@$(run) check -- --update

bench: node_modules/.package-lock.json ## Measure ingest and queries (ARGS="--peers" adds InfluxDB and VictoriaMetrics)
	@$(run) bench -- $(ARGS)

migrate: node_modules/.package-lock.json ## Bring the database up to date
	@$(run) migrate

token: node_modules/.package-lock.json ## Print a token: make token ORG=acme ROLE=viewer|ingest|operator|admin TTL=24h PERMISSIONS=metrics:write,…
	@$(run) token

psql: node_modules/.package-lock.json ## Open psql on the database, or run one command: make psql SQL="select 1"
	@$(run) psql

node_modules/.package-lock.json: package.json package-lock.json
	@command -v npm >/dev/null || { echo "npm is missing: install Node.js 20 or later (https://nodejs.org) first."; exit 1; }
	@echo "- Installing packages" >&2
	@npm ci --no-audit --no-fund --loglevel=error >/dev/null
	@touch $@
