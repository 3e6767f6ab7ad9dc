"""Datasets: rows of one or many files, selected, shuffled and delivered in batches."""
