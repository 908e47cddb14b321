"""What makes training faster without changing its mathematics."""
