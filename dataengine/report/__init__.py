"""Report: a version as one page that opens from disk, without network."""
