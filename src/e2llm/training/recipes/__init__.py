"""The keys of a recipe, and what a run takes over from the checkpoint that it starts from."""
