"""Loads checkpoints; their layout on disk."""
