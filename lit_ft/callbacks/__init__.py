"""Callbacks: how any loss is optimised, which weights move, what is measured."""
