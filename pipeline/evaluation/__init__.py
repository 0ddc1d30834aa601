"""What a student is worth: zero-shot, retrieval, agreement with its teacher, geometry."""
