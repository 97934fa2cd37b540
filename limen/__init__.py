"""Limen: a DICOM node that runs a Keras model on every study it is sent.

This package holds what the receiving process (``scp``) and the Celery side
(``worker``) share; it imports neither of them. Research software, not for
diagnostic use.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
