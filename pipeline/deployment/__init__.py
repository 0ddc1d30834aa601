"""Export of students to ONNX and int8, and their use."""
