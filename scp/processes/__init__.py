"""Several processes that receive: the parent that accepts, its children, what they say."""
