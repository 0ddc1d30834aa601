"""One program per claim; README.md says how each is run and what it measured."""
