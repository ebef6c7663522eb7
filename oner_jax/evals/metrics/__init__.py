"""How it is measured: numbers with intervals, ranking, exact search, classification."""
