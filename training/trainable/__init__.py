"""What trains and how: parts, LoRA, groups of the optimizer, and the schedule."""
