"""Collections of embeddings: made from any source of data, resumable, and searched."""
