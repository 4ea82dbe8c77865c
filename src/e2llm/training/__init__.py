"""Train a model as a recipe says, from data to checkpoint."""
