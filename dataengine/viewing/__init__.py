"""An episode of a lake as a recording for the Rerun viewer. Only `recording` imports `rerun`."""
