"""The receiving process: DICOM associations in, durable instances and complete studies out.

No TensorFlow, no pixel decoding: bytes are kept as they came.
"""
