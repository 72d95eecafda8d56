"""Shards: WebDataset tars and TFRecords. An index makes each of their images a file that can be read on its own.

So shards are shuffled, shared out and resumed like folders, image by image; no buffer of neighbours is mixed instead.
"""
