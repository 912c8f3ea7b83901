"""A snapshot becomes a bundle."""
