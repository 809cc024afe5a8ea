"""Planning: how to run a job, from measurements of the real loop."""
