"""Memory, disk, random states, whole files, kernel settings; knows errors only."""
