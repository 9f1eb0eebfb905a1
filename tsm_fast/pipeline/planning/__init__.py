"""From settings to a planned run."""
