"""Compares runs: pairs of answers, differences, and their table."""
