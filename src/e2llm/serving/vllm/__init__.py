"""Decoding by a vLLM server."""
