"""The text model and what the multimodal model is built from."""
