# Thin wrappers around lab.py, which needs nothing but Python 3.11 or newer.
# Where there is no make: python3 lab.py lab, python3 lab.py test, and so on.
# Arguments go in ARGS: make notebooks ARGS=03, make test ARGS="-k markov", make lab ARGS=--no-browser
# Slides of one notebook: make slides NOTEBOOK=03
PYTHON ?= python3
ARGS ?=
NOTEBOOK ?=

.DEFAULT_GOAL := help
.PHONY: help lab test check notebooks book slides setup lock clean python-is-here

help: python-is-here
	@$(PYTHON) lab.py --help

lab test check notebooks book slides setup lock clean: python-is-here
	@$(PYTHON) lab.py $@ $(NOTEBOOK) $(ARGS)

python-is-here:
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	  echo "[attnlab] There is no $(PYTHON) here. Install Python 3.11 or newer from https://www.python.org/downloads/" >&2; \
	  exit 3; }
