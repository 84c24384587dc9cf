"""YAML in, model out; with lint, and the tests that travel inside the files."""
