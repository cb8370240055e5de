"""How unimoe is trained: a stage is data (start, parts, mixture, arguments). Run with `python -m training`."""
