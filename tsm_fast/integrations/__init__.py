"""What users of other tools call, in one module for each tool, which imports it."""
