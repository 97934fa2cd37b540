"""Template filters of the results server."""
