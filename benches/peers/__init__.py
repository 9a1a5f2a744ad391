"""Submerge beside other mergers and a file copy: the same files, the same run, interleaved."""
