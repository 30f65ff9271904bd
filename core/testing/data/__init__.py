"""The laws of a data set that look into its images, and at what loading leaves on the disk."""
