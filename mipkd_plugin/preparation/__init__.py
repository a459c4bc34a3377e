"""Preparing data: LR images as MATLAB makes them, pairs in folders or LMDBs."""
