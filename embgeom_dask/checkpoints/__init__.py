"""From a checkpoint to a store: files and formats, which tensor is the embedding, token labels."""
