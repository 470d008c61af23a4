# Colossus. `make` alone says what there is to make; the work is in deploy/*.sh.
# Variables given on the command line reach the scripts through the environment. Their defaults are in deploy/lib.sh.

.DEFAULT_GOAL := help
.PHONY: help up down cluster cluster-down images images-clean clean-images test bench soak spec clean

help: ## This list
	@echo 'make TARGET [VARIABLE=value ...]'
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo 'Variables of up (defaults): HTTP_PORT=80 DOMAIN=cluster.local PROJECT=colossus CONSUL_PORT=8500 ETCD_PORT=2379'
	@echo '  REGISTRATOR_ADMIN_PORT=9101 ROUTER_ADMIN_PORT=9102 HAPROXY_STATS_PORT=8404; all are in deploy/README.md'
	@echo 'Variables of cluster (defaults): NODES=3 DOMAIN=cluster.local CLUSTER=colossus CLUSTER_SUBNET=10.213.0.0/24'

up: ## Start the platform on this machine; returns when it is ready
	@deploy/up.sh

down: ## End it: containers, volumes and networks (PROJECT=colossus)
	@deploy/down.sh

cluster: ## Start several hosts on this machine with the platform on them (NODES=3); returns when it is ready
	@deploy/cluster.sh up

cluster-down: ## End them: hosts, disks and network (CLUSTER=colossus)
	@deploy/cluster.sh down

images: ## Build every image (REBUILD=1: from nothing)
	@deploy/images/build.sh

images-clean: clean-images

clean-images: ## Remove the platform's images
	@deploy/images/clean.sh

test: ## Format, lints, documentation, unit tests, images, integration tests against the real programs
	@deploy/test.sh

bench: ## How long things take, beside what they need at least: container to answer, Consul's cluster, the virtual IP beside keepalived
	@deploy/prereqs.sh
	@deploy/images/build.sh
	@integration-tests/images/host/build.sh
	@cargo run --release --locked -p integration-tests --bin bench
	@cargo run --release --locked -p integration-tests --bin vip -- bench

soak: ## All that can happen to the virtual IP, RUNS=20 times each, as a table (hours); and its election for millions of steps
	@deploy/prereqs.sh
	@deploy/images/build.sh
	@integration-tests/images/host/build.sh
	@VIP_SIMULATION_SEEDS=1000..21000 cargo test --release --locked -p vip-keeper --test simulation
	@cargo run --release --locked -p integration-tests --bin vip -- soak --runs $(or $(RUNS),20)

spec: ## Checks the model of the virtual IP's election with spin
	@deploy/prereqs.sh spin
	@docs/spec/check.sh

clean: ## Remove what was built on this machine except images
	@cargo clean
