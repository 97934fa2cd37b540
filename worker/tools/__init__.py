"""The worker's command line tools: `limen explain` and `limen model`."""
