"""Checks data without training on it."""
