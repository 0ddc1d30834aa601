"""Sections below the first screen of the report."""
