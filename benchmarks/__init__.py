"""One script per performance claim; README.md has the commands and the results."""
