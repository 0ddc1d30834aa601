"""Commands that are not pipeline stages: audit, compare, verify, info, gc, export, predict, search and others."""
