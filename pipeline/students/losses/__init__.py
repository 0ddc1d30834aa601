"""Distillation losses and their scaling."""
