"""Small pretrained models as folders, from the Python package index."""
