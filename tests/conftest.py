"""Fixtures that several test files share."""

pytest_plugins = ["cloud", "ledgers", "postgres", "provider_side", "tokens", "whole_line", "desk"]  # desk: others first
