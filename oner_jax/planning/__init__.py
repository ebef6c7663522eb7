"""What a recipe needs and can reach on accelerators that are not at hand."""
