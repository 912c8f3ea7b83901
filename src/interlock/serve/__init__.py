"""The HTTP doors: a release answers online."""
