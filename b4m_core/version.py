"""The version of B4M, as pyproject.toml has it."""

VERSION = "0.1.0"
