"""The commands beside training: check, merge, and plan."""
