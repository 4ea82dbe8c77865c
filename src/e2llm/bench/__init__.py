"""Time and memory, side by side in one run: with full context, with other readers, by length, of an edit."""
