bin := .venv/bin/

demo:  # the README's first command, once installed
	$(bin)bitwright compare --threads 1

check:
	$(bin)ruff format --check .
	$(bin)ruff check .
	$(bin)mypy
	$(bin)lint-imports --no-cache
	$(bin)pytest tests/test_layers.py

test:
	OMP_NUM_THREADS=1 $(bin)pytest -n 2

bench:  # peers take part where they are installed: pip install -c constraints.txt -e '.[peers]'
	$(bin)python benchmarks/run.py

docs:  # needs pip install -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(bin)mkdocs build --strict

.PHONY: demo check test bench docs
