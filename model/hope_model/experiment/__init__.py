"""The experiment: every system of the paper trained alike at equal size, and the report made of it."""
