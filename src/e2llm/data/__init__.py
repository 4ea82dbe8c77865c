"""Public data sets and plain text turned into records, one small file each."""
