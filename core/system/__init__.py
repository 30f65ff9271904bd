"""Memory, disk, random states, whole files, kernel settings; imports only the errors from the core."""
