"""How fast the input is, beside what the same cores can do at most."""
