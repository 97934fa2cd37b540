"""The one Django application of the results server."""
