"""Figures, and the report: one HTML file that opens anywhere, offline. Takes plain arrays and strings."""
