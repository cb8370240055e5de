"""Speed and memory, peers side by side in one process; run `python -m benchmarks`."""
