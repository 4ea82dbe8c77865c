"""One file per command; each turns arguments into library calls."""
