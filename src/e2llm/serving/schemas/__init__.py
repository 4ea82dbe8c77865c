"""What clients send and what the server sends back, as pydantic models."""
