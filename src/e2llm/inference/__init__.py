"""Read a context once and ask it often: reader, context, engine."""
