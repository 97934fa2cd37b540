"""LIME: arrays in, arrays out. It knows no DICOM, no bundle and no journal."""
