"""The work of the journal: claimed, done, committed."""
