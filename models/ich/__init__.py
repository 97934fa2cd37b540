"""The bundle that ships with Limen: intracranial hemorrhage on head CT. Not for diagnostic use."""
