"""The pages with figures that an evaluation writes."""
