"""Export: formats in which a trained model leaves the house."""
