"""One stage from its start to the folder that it leaves."""
