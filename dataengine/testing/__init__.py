"""Conformance suites that authors of formats and transforms inherit. Needs pytest (the `test` group)."""
