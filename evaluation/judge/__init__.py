"""A grading model behind an endpoint."""
