"""Training: steps (the loop), fit (steps, evaluation, saving), state and checkpoints."""
