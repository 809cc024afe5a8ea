"""Tokens in shards with hashes: built once, checked, and read from a folder or streamed from an object store."""
