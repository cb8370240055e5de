"""Numbers of bytes as people read them."""

GB, MB = 1e9, 1e6


def in_words(size: float) -> str:
    """Write a number of bytes in GB, or in MB if it is less."""
    return f"{size / GB:.1f} GB" if size >= GB else f"{size / MB:.1f} MB"


__all__ = ["GB", "MB", "in_words"]
