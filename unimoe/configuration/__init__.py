"""The parts of the configuration, and what they are checked against."""
