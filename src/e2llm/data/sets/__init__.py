"""Data sets, one file each: a function that yields records, and facts about the data."""
