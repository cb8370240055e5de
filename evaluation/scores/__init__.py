"""Numbers from answers: estimates, their intervals, and what chance gives."""
