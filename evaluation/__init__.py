"""How unimoe models are measured: tasks -> generate -> metrics -> results.json and a table.

Run `python -m evaluation --help`.
"""
