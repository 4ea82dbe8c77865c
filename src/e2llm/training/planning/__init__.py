"""Before a long run: one step with tiny parts, and four records learned by heart."""
