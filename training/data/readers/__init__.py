"""Data files in, rows of messages out."""
