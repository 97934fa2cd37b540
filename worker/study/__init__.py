"""From the instances of a study to its finding and its explanation."""
