"""What `python -m oner_jax.check` finds out about a recipe's data."""
