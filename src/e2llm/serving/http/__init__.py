"""Keys, limits, bodies and errors of requests, and work that ends with the connection."""
