"""The commands: option parsing, text tables, JSON and exit codes. Nothing is computed here."""
