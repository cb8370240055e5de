"""The quickstart: small real data, a small model with random weights. Run with `python -m training.quickstart OUT`."""
