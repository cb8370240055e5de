"""The showcase: one mixture of experts beside dense models of as many active, and of as many total parameters.

`packages` and `instruments` read what the packages of Debian hold, `views` changes pictures and sounds, `data` makes
rows of both, and `start` writes the models that the stages of `configs/showcase/recipe.yaml` begin with. The protocol
is in docs/showcase.md.
"""
