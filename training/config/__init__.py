"""What a stage and a recipe may say in YAML, as validated objects."""
