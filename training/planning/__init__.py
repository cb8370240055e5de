"""What a stage will take, estimated before anything is loaded or allocated."""
