"""What leaves the workshop: ONNX graphs, their int8 forms, and the folder that a device needs."""
