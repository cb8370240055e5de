"""Several processes: launching, DeepSpeed, shards, and expert parallelism."""
