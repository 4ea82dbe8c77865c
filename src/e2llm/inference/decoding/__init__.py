"""Run the decoder: one answer at a time, or many in one batch."""
