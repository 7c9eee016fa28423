# Each sets up .venv by itself. Without make (Windows): python go.py VERB
PYTHON ?= python3
VERBS = lab test notebooks equations readme site doctor setup

.PHONY: $(VERBS)
$(VERBS):
	@$(PYTHON) go.py $@ $(ARGS)
