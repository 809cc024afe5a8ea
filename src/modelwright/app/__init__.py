"""The verbs: recipe, run, launch and the rooms below, joined."""
