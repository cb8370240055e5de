"""BEATs, an encoder of sounds that transformers does not have."""
