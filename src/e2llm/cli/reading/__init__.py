"""Commands that read texts, ask about them, and look at what was read."""
