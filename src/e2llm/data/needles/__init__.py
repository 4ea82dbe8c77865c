"""Needles: short sentences hidden in long texts, for training and for RULER's tasks."""
