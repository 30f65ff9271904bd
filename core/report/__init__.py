"""Pages for a browser: the report of a run, and the comparison of several."""
