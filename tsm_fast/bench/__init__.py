"""What these maps are measured against, and how: `peers`, `clock`, and `timings`, the table of the demo."""
