"""Reading at scale: one corpus, many workers."""
