"""Decoding in this process, and the interface that other decoders share with it."""
