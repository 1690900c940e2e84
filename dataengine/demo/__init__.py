"""The demo: small data sets of five families, simulated here, taken the whole way to a verified mixture."""

from dataengine.demo.tour import Demo, run

__all__ = ["Demo", "run"]
