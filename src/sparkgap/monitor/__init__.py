"""What happens inside running tasks: counts and times, sent to the driver."""
