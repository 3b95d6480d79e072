"""Fixtures that several test files share."""

pytest_plugins = ["cloud", "ledgers", "tokens", "whole_line", "desk"]  # desk imports others: last
