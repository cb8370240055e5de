"""The report of a run: terminal, Markdown, and HTML."""
