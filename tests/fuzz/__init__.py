"""The receiver's readers of strangers' bytes, called in this process with whatever comes."""
