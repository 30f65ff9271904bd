"""The laws of an architecture that look into its networks: inputs, company, devices, state."""
