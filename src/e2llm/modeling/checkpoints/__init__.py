"""Checkpoints: finding, loading and saving the model and its parts; nothing is taken on trust."""
