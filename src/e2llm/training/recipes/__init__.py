"""The keys of a recipe, and the values that it takes from the checkpoint it starts from."""
