"""Tokens of frozen encoders, computed once before a training and read while it runs."""
