# Each sets up .venv by itself. Without make (Windows): python go.py lab | test | notebooks | setup
PYTHON ?= python3

.PHONY: lab test notebooks setup
lab test notebooks setup:
	@$(PYTHON) go.py $@ $(ARGS)
