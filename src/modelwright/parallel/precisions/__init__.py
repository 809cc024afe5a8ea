"""In which number formats a step is computed: one file each."""
