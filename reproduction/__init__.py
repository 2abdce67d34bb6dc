"""What ``reproduce.py`` is made of: recipes, run folders, the runner, the report and the smoke test."""
