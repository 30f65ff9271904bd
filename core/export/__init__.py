"""A trained model outside of mpcc: programs that need no mpcc, and an archive for a colleague."""
