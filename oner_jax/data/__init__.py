"""From image-caption files to training batches: records, order, decoding, text, pipeline."""
