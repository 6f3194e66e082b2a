# Two commands are all a new user needs: `make run` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
BUILT  := setup.cfg setup.py $(wildcard relay_app/*/*.c relay_app/*/*.h)

.PHONY: run test test-pure test-sanitized fuzz bench lint format requirements clean

run: $(VENV)/run.stamp
	@$(BIN)/relay-app quickstart

# Most tests wait, for deadlines and for servers, so two at once take little more than half the time.
test: $(VENV)/test.stamp
	$(BIN)/python -m pytest -n 2 --dist loadfile

# The parts that have a twin in C, as where they could not be compiled: a minute and a half.
test-pure: $(VENV)/test.stamp
	PYTHONPATH=bench/pure $(BIN)/python -m pytest -n 2 --dist loadfile tests/wire tests/session tests/meter

# What is compiled, watched by gcc's sanitizers. Not its stack: greenlet copies that, redzones and
# all. libstdc++ is what greenlet's exceptions come from.
SANITIZED := build/sanitized
test-sanitized: $(VENV)/test.stamp
	CFLAGS="-fsanitize=address,undefined --param asan-stack=0 -fno-omit-frame-pointer -O1 -g" LDFLAGS="-fsanitize=address,undefined" \
	  $(BIN)/python setup.py --quiet build --build-base $(SANITIZED) --build-lib $(SANITIZED)/lib
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1 PYTHONMALLOC=malloc PYTHONSAFEPATH=1 \
	  $(BIN)/python -m pytest -o "pythonpath=tests $(SANITIZED)/lib" tests/wire tests/meter/test_meter_skim.py tests/meter/test_meter_usual.py \
	  tests/session/test_session_pump.py tests/session/test_session_session.py

# Looks for inputs that no test has thought of: make fuzz FUZZ='settings journal --seconds 600'.
# Where there is a clang, what is compiled guides it, and is watched by its sanitizers.
CLANG  ?= clang
FUZZED := build/fuzz
fuzz: $(VENV)/fuzz.stamp
	@if command -v $(CLANG) >/dev/null; then \
	  CC=$(CLANG) LDSHARED="$(CLANG) -shared" \
	  CFLAGS="-fsanitize=address,undefined,fuzzer-no-link -fno-omit-frame-pointer -g" \
	  $(BIN)/python setup.py --quiet build --build-base $(FUZZED) --build-lib $(FUZZED)/lib; \
	else echo "There is no $(CLANG), so nobody watches what is compiled."; rm -rf $(FUZZED)/lib; fi
	$(BIN)/python -m tests.fuzz $(FUZZ)

# What to run and how often: make bench BENCH='closed-loop --rounds 3'
bench: $(VENV)/bench.stamp
	$(BIN)/python -m bench $(BENCH)

lint: $(VENV)/test.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/test.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# requirements.txt: what is deployed, by hash, for every Python that setup.cfg admits. Keeps the versions
# that are there; make requirements UPGRADE=--upgrade takes newer ones. setuptools builds the package.
requirements: | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	echo 'setuptools>=70.1' | UV_CUSTOM_COMPILE_COMMAND='make requirements' $(BIN)/uv pip compile --quiet \
	  --python $(BIN)/python --python-version 3.11 --universal --generate-hashes $(UPGRADE) \
	  --extra postgres --extra redis --output-file requirements.txt setup.cfg -

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "relay_app needs Python 3.11 or newer; try: make PYTHON=python3.12 run")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: $(BUILT) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/test.stamp: $(BUILT) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,lint]'
	@touch $@ $(VENV)/run.stamp

$(VENV)/fuzz.stamp: $(BUILT) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,fuzz]'
	@touch $@ $(VENV)/run.stamp

$(VENV)/bench.stamp: $(BUILT) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	@touch $@ $(VENV)/run.stamp

clean:
	rm -rf $(VENV) bench/.venv-litellm build dist *.egg-info var relay_app/*/*.so
