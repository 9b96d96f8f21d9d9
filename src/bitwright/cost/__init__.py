"""What a scheme costs in silicon: area, delay, energy, memory and cycles. NumPy only; synthesis is an extra."""
