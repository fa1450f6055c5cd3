"""Results for other tools: tables, graphs and files."""
