"""A project on disk: parameters, folders, errors and progress messages."""
