"""How unimoe is trained: a stage is data (a start, named parts, a data mixture, arguments). Run with `python -m training`."""
