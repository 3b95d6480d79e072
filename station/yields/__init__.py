"""The yield report: counted from the record, drawn, written, delivered."""
