"""A run's network for other programs: as a state dict, safetensors, ONNX or an exported program; see the README here."""
