"""Fixtures that several test files share."""

pytest_plugins = ["tokens", "whole_line"]
