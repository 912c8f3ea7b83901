"""One function per verb; rendering apart."""
