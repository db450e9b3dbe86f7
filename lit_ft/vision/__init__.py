"""Classifiers of images and of vectors."""
