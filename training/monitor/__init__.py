"""What one sees of a training: progress, metrics, curves, trackers, and faults that are silent."""
