"""Test protocols beside N-way K-shot episodes, of everything that embeds images: one module each.

verification  do two images show the same class?
retrieval     which of all other images show the class of this one?
generalised   which of all classes, base and novel, does this image show?
"""
