"""Fixtures that several test files share."""

# `desk` last: it asks for the others.
pytest_plugins = ["cloud", "ledgers", "office", "postgres", "line_bed", "provider_side", "tokens", "whole_line", "desk"]
