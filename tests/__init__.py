"""The test suite: one folder per package, `contract` for what holds the whole together, `factories` for inputs."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
