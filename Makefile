# make train   set up, draw nothing, download no data: train on the embedded sample, evaluate, write a report
# make test    set up, run all tests          make check   lint and types
# make bench   all benchmarks but accuracy      make clean   remove what the others made
# make peers   other loaders, for make bench to measure beside ours
PYTHON ?= python3.11
VENV ?= .venv
SAMPLE ?= runs/sample
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

PEERS := $(if $(wildcard .venv-peers/bin/python),--peers .venv-peers/bin/python)

.PHONY: all setup train test check bench peers clean
all: train

setup: $(INSTALLED)

$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

train: $(INSTALLED)
	$(BIN)/python -m tools combine sample --output $(SAMPLE)/originals --name "kkanji rendered sample" \
		--licence "Drawn from public-domain brush fonts; not historical." --overwrite
	$(BIN)/python -m tools split $(SAMPLE)/originals --val 0.2
	$(BIN)/python -m tools pack $(SAMPLE)/originals --output $(SAMPLE)/shards --block-size 125 --overwrite
	$(BIN)/python -m tools verify $(SAMPLE)/shards
	rm -rf $(SAMPLE)/run
	$(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
		--num_cpu_threads_per_process $$(nproc) \
		launch/train.py --data $(SAMPLE)/shards --output $(SAMPLE)/run --model kkanji_efficientnet_fused_s \
		--epochs 30 --batch-size 64 --optimizer adamw --lr 2e-3 --schedule cosine --warmup-epochs 1 --weight-decay 0.02
	$(BIN)/python launch/evaluate.py --checkpoint $(SAMPLE)/run/checkpoints/best --data $(SAMPLE)/shards

# Files in their order, to as many processes as there are cores, each with one thread.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks all $(PEERS)

# Other projects' loaders, to be measured beside ours: an environment of their own, as some need an older NumPy.
peers: $(INSTALLED)
	$(PYTHON) -m venv .venv-peers
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
		> $$(.venv-peers/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/kkanji.pth
	.venv-peers/bin/pip install --quiet --disable-pip-version-check --requirement benchmarks/peers/requirements.txt

clean:
	rm -rf $(VENV) .venv-peers $(SAMPLE) *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
