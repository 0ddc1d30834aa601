"""The sections below the first screen, each from what is there."""
