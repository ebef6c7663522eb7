"""Checkpoints of a run: what is in them, when they are saved, whether they are whole."""
