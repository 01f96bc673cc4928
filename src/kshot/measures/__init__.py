"""Pure numbers from rows: metrics, intervals, comparisons, curves, calibration."""
