"""A project on disk: its parameters, its folders, its errors and what it says while it works."""
