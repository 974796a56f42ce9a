"""Measures the download queue against its peers and against SQL written by hand."""
