"""The cooperative pattern: one piece of work that many workers do together, and talk to each other while they do it."""
