# Each sets up .venv by itself. Without make (Windows): python go.py lab | test | notebooks | doctor | setup
PYTHON ?= python3

.PHONY: lab test notebooks doctor setup
lab test notebooks doctor setup:
	@$(PYTHON) go.py $@ $(ARGS)
