"""Checkpoints of a stage: their folder, the state in them, and the model card."""
