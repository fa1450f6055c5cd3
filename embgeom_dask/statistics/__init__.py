"""Numbers that several questions tell of rows, lists of neighbors or distances."""
