# make train   set up, then train on the embedded sample, evaluate and write a report; downloads no data
# make test    set up, run all tests          make check   lint and types
# make bench   all benchmarks but accuracy      make clean   remove what the others made
# make api     pages of the public names
# make peers   other loaders, for make bench to measure beside ours
PYTHON ?= python3.11
VENV ?= .venv
SAMPLE ?= runs/sample
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

PEERS := $(if $(wildcard .venv-peers/bin/python),--peers .venv-peers/bin/python)

.PHONY: all setup train test check bench peers api clean
all: train

setup: $(INSTALLED)

$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

train: $(INSTALLED)
	$(BIN)/kkanji combine sample --output $(SAMPLE)/originals --name "kkanji rendered sample" \
		--licence "Rendered from public-domain brush fonts; not historical." --overwrite
	$(BIN)/kkanji split $(SAMPLE)/originals --val 0.2
	$(BIN)/kkanji pack $(SAMPLE)/originals --output $(SAMPLE)/shards --block-size 125 --overwrite
	$(BIN)/kkanji verify $(SAMPLE)/shards
	rm -rf $(SAMPLE)/run
	$(BIN)/kkanji train --data $(SAMPLE)/shards --output $(SAMPLE)/run \
		--model kkanji_efficientnet_fused_s --epochs 30 --batch-size 64 \
		--optimizer adamw --lr 2e-3 --schedule cosine --warmup-epochs 1 --weight-decay 0.02
	$(BIN)/kkanji evaluate --checkpoint $(SAMPLE)/run/checkpoints/best --data $(SAMPLE)/shards

# Files in their order, to two processes for each core, as many tests wait; each with one thread. Compiled modules are
# kept: tests start many a Python, and pytest compiles tests with their assertions, 6 s a process.
test: $(INSTALLED)
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $$(($$(nproc) * 2)) --maxprocesses 8 --dist loadfile --no-loadscope-reorder

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Pages of the public names, into docs/api.
api: $(INSTALLED)
	$(BIN)/python docs/api.py

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
