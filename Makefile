# Normalization, Measured. `make help` lists the commands; each sets up what it needs.
PYTHON ?=
VENV   ?= .venv
PORT   ?= 8000
# The exact versions that CI runs; `make CONSTRAINTS= …` takes the newest releases instead.
CONSTRAINTS ?= constraints.txt
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# CPU builds of torch; on other systems the default index has them already.
ifeq ($(shell uname -s),Linux)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
endif

# One thread per process: parallelism is over chapters.
export OMP_NUM_THREADS ?= 1
# Keep freed memory: glibc gives arrays of a megabyte back to the system and fetches them again at
# every step, which takes a third of the time of a small convolutional network.
export MALLOC_TRIM_THRESHOLD_ ?= 1000000000
export MALLOC_MMAP_THRESHOLD_ ?= 1000000000

.DEFAULT_GOAL := help
.PHONY: help setup book test browser colab lab serve times bench address lint format clean distclean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1|/' \
	  | awk -F'|' '{ printf "%-16s %s\n", $$1, $$2 }'

setup: $(STAMP) ## create .venv and install everything (the other commands do this themselves)

$(STAMP): pyproject.toml $(CONSTRAINTS)
	@python=$$(sh tools/find_python.sh $(PYTHON)) && \
	  "$$python" tools/setup.py $(VENV) --constraints "$(CONSTRAINTS)" \
	  $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX))

book: $(STAMP) ## execute the chapters and build the HTML
	@$(BIN)/python tools/build.py

test: $(STAMP) ## run all tests
	@$(MAKE) --no-print-directory -j 2 browser colab
	@$(BIN)/python -m pytest $(PYTEST)

browser: $(STAMP)
	@$(BIN)/python tools/browser.py

colab: $(STAMP)
	@$(BIN)/python tools/colab.py --prepare

lab: $(STAMP) ## open the chapters in JupyterLab
	$(BIN)/jupyter lab --notebook-dir=notebooks

serve: book ## build the book and serve it at http://localhost:8000 (PORT=…)
	@echo "Serving at http://localhost:$(PORT), stop with Ctrl-C"
	@$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

times: $(STAMP) ## run each chapter alone on one core and write book/times.csv
	@$(BIN)/python tools/times.py

bench: $(STAMP) ## compare the helpers' speed with the plain way
	@$(BIN)/python tools/bench.py

address: ## write the repository's address wherever it is needed: make address URL=https://github.com/…
	@python=$$(sh tools/find_python.sh $(PYTHON)) && "$$python" tools/address.py '$(URL)'

lint: $(STAMP) ## check style, and that the notebooks are stripped
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/nbstripout --verify --keep-id notebooks/*.ipynb

format: $(STAMP) ## mend what lint reports, where a tool can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(BIN)/nbstripout --keep-id notebooks/*.ipynb

clean: ## remove what was built
	rm -rf _build .pytest_cache .ruff_cache .hypothesis

distclean: clean ## remove the environments too
	rm -rf .venv .venv-colab
