"""A bundle becomes what is live, and stops being it."""
