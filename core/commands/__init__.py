"""One command a file, and the flags that they share."""
