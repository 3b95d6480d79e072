"""The append-only record of the line."""
