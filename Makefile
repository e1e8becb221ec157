PYTHON ?= python3
VENV ?= .venv
WORKDIR ?= runs/quickstart

.PHONY: quickstart test lint clean

quickstart: $(VENV)/.runtime
	$(VENV)/bin/python main.py --config=configs/quickstart.py --workdir=$(WORKDIR)

test: $(VENV)/.dev
	$(VENV)/bin/python -m pytest -n auto --dist loadfile

lint: $(VENV)/.dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/pyright

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: requirements.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.dev: requirements.txt requirements-dev.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) runs build *.egg-info
