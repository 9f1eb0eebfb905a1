"""What is in the folder of a run, for those who read it."""
