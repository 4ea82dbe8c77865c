"""Needles: short sentences hidden in long texts, for training (`generator`) and for RULER's tasks."""
