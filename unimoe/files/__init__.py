"""Files that others wrote, read strictly: JSON, JSON Lines, YAML, settings, and folders of models."""
