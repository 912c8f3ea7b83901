"""Rows become a snapshot."""
