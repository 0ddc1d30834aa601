"""Evaluation of students: scoring rules, zero-shot, retrieval, agreement with the teacher, geometry."""
