"""The quickstart: small real data and a small randomly initialised model. Run with `python -m training.quickstart OUT`."""
