"""Records in their global order to batches: which, read, mended where damaged, decoded."""
