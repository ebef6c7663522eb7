"""Checkpoints x datasets x tasks: what is computed, kept, compared and tabulated."""
