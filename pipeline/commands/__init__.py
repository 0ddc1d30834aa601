"""Commands that are not pipeline stages: audit, verify, info, gc, compare, export, predict, search, profile and others."""
