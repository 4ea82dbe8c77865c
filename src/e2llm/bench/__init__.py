"""Time and memory, side by side in one run: full context, other readers, training, a server."""
