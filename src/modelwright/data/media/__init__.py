"""Images and sounds, in folders and in tar shards."""
