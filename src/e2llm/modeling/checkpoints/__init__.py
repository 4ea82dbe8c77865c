"""Find, verify, load and save checkpoints of the model and its parts."""
