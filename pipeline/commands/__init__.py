"""The verbs that are no stage: audit, verify, info, gc, compare, export, predict, search, profile."""
