"""Encoded chunks on disk, shared by reading and training."""
