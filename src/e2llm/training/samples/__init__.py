"""From records to batches: sources, chunks and their rates, laid-out samples, and the check of all data."""
