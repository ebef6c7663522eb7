"""The paper's claims, judged over the runs and seeds of a sweep."""
