"""Which device a task uses."""
