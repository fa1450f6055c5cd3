"""Which rows, points and radii a question is about, and which rows of two vocabularies correspond."""
