"""Models and data of others: whatever a name, a folder or a file says becomes a task."""
