"""Float models by name, each with its data and its metric."""
