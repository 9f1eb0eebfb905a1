"""Who computes the shards of a run, and what is told of it."""
