"""Where models and data come from: files and libraries of others, read without running code that they bring."""
