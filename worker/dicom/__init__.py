"""DICOM as it comes: headers, pixels, and the limited children that read them."""
