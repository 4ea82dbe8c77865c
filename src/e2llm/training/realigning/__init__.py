"""Another encoder under a trained decoder."""
