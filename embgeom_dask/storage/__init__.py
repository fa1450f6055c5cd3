"""Model stores and results: paths and URLs, what is whole or not there, what is read and checked."""
