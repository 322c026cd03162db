"""What the monitor knows, given on to other systems: one seam, six built-in exporters, a Grafana dashboard."""
