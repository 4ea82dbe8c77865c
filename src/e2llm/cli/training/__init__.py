"""Commands that prepare data and make or train models."""
