"""Datasets: rows of one or many files, selected, shuffled, delivered in batches; and written."""
