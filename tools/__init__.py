"""Programs for developers: generated documentation, and the fitting of the demo's encoder. Not in the wheel."""
