"""The trainer of a stage: start, data, losses, specialists, and validation."""
