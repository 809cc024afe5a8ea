"""How updates travel between replicas: one file each."""
