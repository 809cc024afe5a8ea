"""How a program is spread over an axis of the mesh: one file each."""
