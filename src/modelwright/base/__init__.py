"""What every room may use: errors, events, units, choice by name, files, the world of processes, plain data."""
