"""One question asked of many models or steps: a few at a time, with a record of how far it is."""
