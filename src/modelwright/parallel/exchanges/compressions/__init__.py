"""What travels in place of whole gradients: one file each."""
