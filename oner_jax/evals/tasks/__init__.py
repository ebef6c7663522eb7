"""What is measured: one file per task, and the names and meanings of the metrics."""
