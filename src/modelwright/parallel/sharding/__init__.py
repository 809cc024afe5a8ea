"""Sharding: parameters, gradients and moments divided among ranks that compute different samples."""
