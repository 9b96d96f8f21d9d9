"""bitwright: from a trained network to a low-precision accelerator."""
