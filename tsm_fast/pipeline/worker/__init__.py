"""From planned images to a published shard."""
