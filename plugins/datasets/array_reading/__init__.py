"""How files of arrays and their labels are read."""
