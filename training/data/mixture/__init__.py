"""A weighted mixture of rows, in its order, as samples with decoded media."""
