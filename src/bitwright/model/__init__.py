"""From a float torch model to a quantized one."""
