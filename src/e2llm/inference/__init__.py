"""Read once, ask often: reader, context, engine."""
