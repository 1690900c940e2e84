"""Formats: one module an on-disk layout. `scan` gives cheap picklable refs, `read` gives a raw episode."""
