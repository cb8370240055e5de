"""From messages to the model's inputs: which keys conversations may have, and what becomes of each."""
