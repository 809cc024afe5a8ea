"""Looking into a run: profiles, operations counted, norms by module, spikes, and replayed steps."""
