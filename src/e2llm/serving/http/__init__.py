"""What every request passes: keys, limits, bodies, errors, and the work that ends with the connection."""
