"""Better parameters, searched for on the training rows before the ordinary training."""
