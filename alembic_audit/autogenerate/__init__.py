"""Comparing and rendering: compare (the two hooks), diff and order (pure), render."""
