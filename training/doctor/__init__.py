"""What keeps a mixture of experts from being more than a dense model: measured facts, and findings with cures."""
