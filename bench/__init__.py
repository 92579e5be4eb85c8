"""Benchmarks: everything is compared with something in the same run, because absolute times depend on the machine."""
