"""Results in the files of their field: NIfTI and DICOM SEG on the original grid, tables and pictures."""
