"""A run of the evaluation: answering, resuming, summing up, comparing."""
