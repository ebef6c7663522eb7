"""What `python -m oner_jax.data.check` finds out about a recipe's data."""
