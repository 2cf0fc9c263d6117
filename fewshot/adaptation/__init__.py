"""Adaptation of a classifier to a domain that words describe: training features of images that nobody has seen.

lads  Dunlap et al. 2023: a network moves the embeddings of images along the direction of the texts
poda  Fahes et al. 2023: the statistics of low-level feature maps are fitted to a prompt

Both take source images, their labels and texts, and give embeddings for a linear probe to train on.
"""
