"""An HTTP server with OpenAI's API, for contexts of any length.

Needs the extra `serve`; only `e2llm.cli.serve` and users' code import it.
"""
