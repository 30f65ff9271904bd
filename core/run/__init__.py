"""One run: how it is assembled, its course, how it is resumed."""
