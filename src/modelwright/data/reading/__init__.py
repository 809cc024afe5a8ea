"""Reading: how the steps of a loader come from its data set, by whom, and how far ahead."""
