"""Turn records into batches, and check all data before a run."""
