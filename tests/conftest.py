"""Fixtures that several test files share."""

pytest_plugins = ["cloud", "ledgers", "postgres", "tokens", "whole_line", "desk"]  # desk imports others: last
