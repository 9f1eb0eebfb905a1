"""The six steps of the maps and decompositions: what they are, who computes them, and who is chosen."""
