"""Running a model: backends, batches, one engine for all who ask."""
