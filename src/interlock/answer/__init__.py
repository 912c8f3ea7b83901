"""A release answers."""
