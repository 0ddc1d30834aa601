"""The eight stages (verbs) and, one folder down, the parts that they are made of (nouns)."""
